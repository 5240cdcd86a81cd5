//! Enums whose variants have names.

/// An enum that `enum_all!` defines.
pub trait Enumerated: Copy {
    /// How many variants there are.
    const COUNT: usize;

    /// The index of the variant in `ALL`.
    fn index(self) -> usize;
}

/// Defines an enum of variants without data. One declaration gives the variants, their names and the list of them: a list
/// or a match kept apart could miss a variant or name another one.
///
/// `name()` is the variant's name in metrics, logs, settings and the API, and serde's form of it. `ALL` holds the variants
/// in order, each at the index that it is as a number.
macro_rules! enum_all {
    (
        $(#[$meta:meta])*
        $visible:vis enum $enum:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $name:literal),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
        $visible enum $enum {
            $($(#[$variant_meta])* #[serde(rename = $name)] $variant),+
        }

        impl $crate::util::Enumerated for $enum {
            const COUNT: usize = [$($name),+].len();

            fn index(self) -> usize {
                self as usize
            }
        }

        impl $enum {
            /// All variants, in order.
            #[allow(dead_code, reason = "not every enum is enumerated")]
            $visible const ALL: [Self; <Self as $crate::util::Enumerated>::COUNT] = [$(Self::$variant),+];

            /// Returns the name of the variant.
            $visible const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }
    };
}

pub(crate) use enum_all;
