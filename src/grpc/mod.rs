//! The edge: a file per service, and the one mapping from errors to `google.rpc.Status`.
//! Protobuf types live here and nowhere deeper.

pub mod auth;
mod call;
mod document;
mod edge;
mod fields;
mod in_flight;
mod listener;
mod page;
pub mod quota;
pub mod readiness;
pub mod recognize;
pub mod serve;
pub mod status;
pub mod storage;

/// The contract as generated from `proto/img2text/v1`.
#[allow(clippy::large_enum_variant, reason = "a reply is made once and sent")]
pub mod proto {
    tonic::include_proto!("img2text.v1");

    /// The descriptors of the contract, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
