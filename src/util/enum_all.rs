//! Enums whose variants have names.

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

        impl $enum {
            /// All variants, in order.
            #[allow(dead_code, reason = "not every enum is enumerated")]
            $visible const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

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
