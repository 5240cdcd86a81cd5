//! Enums that know their variants.

/// Defines an enum and, as `ALL`, the list of its variants in their order: one that is missing from a list kept by
/// hand would be counted in another's place.
macro_rules! enum_all {
    (
        $(#[$meta:meta])*
        $visible:vis enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        $visible enum $name {
            $($(#[$variant_meta])* $variant),+
        }

        impl $name {
            /// All of them, in order: each stands at the place that it is as a number.
            $visible const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];
        }
    };
}

pub(crate) use enum_all;
