//! JPEG: the markers that matter before decoding, and decoding at a scale through libjpeg-turbo.

mod header;
mod turbo;

pub(crate) use header::Header;
pub(crate) use turbo::decode;
