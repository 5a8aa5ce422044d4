//! What declares a type of the SDK to UniFFI.
//!
//! Enums of the SDK can get more variants; a mirror then says `Other`. Both are of one release, and
//! a test holds the names of variants and fields against the SDK's.

/// A record of the same fields, made of the SDK's.
macro_rules! record {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl From<client::$name> for $name {
            fn from(sdk: client::$name) -> Self {
                Self { $($field: sdk.$field.into(),)* }
            }
        }
    };
}

/// An enum of the same variants, made of the SDK's; `else` is what is not among them.
macro_rules! outcome {
    (
        $(#[$doc:meta])*
        $name:ident {
            $($(#[$variant_doc:meta])* $variant:ident
                $({ $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? })?
                $(($(#[$of_doc:meta])* $of:ident: $of_type:ty))?,)*
        }
        else $(#[$else_doc:meta])* $other:ident $({ $(#[$json_doc:meta])* $json:ident })?
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
        pub enum $name {
            $($(#[$variant_doc])* $variant
                $({ $($(#[$field_doc])* $field: $type),* })?
                $({ $(#[$of_doc])* $of: $of_type })?,)*
            $(#[$else_doc])* $other $({ $(#[$json_doc])* $json: String })?,
        }

        impl From<client::$name> for $name {
            fn from(sdk: client::$name) -> Self {
                match sdk {
                    $(client::$name::$variant $({ $($field),* })? $(($of))? =>
                        Self::$variant $({ $($field: $field.into()),* })? $({ $of: $of.into() })?,)*
                    #[allow(unreachable_patterns, reason = "an enum that cannot get more")]
                    other => {
                        let _ = &other;
                        Self::$other $({
                            $json: serde_json::to_string(&other).unwrap_or_default()
                        })?
                    }
                }
            }
        }

        #[cfg(test)]
        impl $name {
            /// As Rust has them.
            pub(crate) const VARIANTS: &[&str] = &[$(stringify!($variant)),*];
        }
    };
}

/// An enum of names that applications choose among.
macro_rules! choice {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$variant_doc:meta])* $variant:ident,)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl From<$name> for client::$name {
            fn from(ours: $name) -> Self {
                match ours {
                    $($name::$variant => Self::$variant,)*
                }
            }
        }
    };
}

/// As [`choice`], of names that the SDK tells.
macro_rules! word {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$variant_doc:meta])* $variant:ident,)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl From<client::$name> for $name {
            fn from(sdk: client::$name) -> Self {
                match sdk {
                    $(client::$name::$variant => Self::$variant,)*
                }
            }
        }
    };
}

pub(crate) use {choice, outcome, record, word};
