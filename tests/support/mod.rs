//! What the tests stand on: real servers on free ports, in temporary directories, gone afterwards.

#[allow(dead_code)]
pub mod account;
#[allow(dead_code)]
pub mod picture;
#[allow(dead_code)]
pub mod redis;
#[allow(dead_code)]
pub mod server;
#[allow(dead_code)]
pub mod tools;
