//! The built-in families with tch, each beside its layout in `consilium_common::study::model`.

pub(crate) mod cnn;
