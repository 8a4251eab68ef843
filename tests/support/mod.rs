//! What the tests stand on: real servers on free ports, in temporary directories, gone afterwards.

#[allow(dead_code)]
pub mod account;
#[allow(dead_code)]
pub mod authority;
#[allow(dead_code)]
pub mod collector;
#[allow(dead_code)]
pub mod contract;
#[allow(dead_code)]
pub mod dice;
#[allow(dead_code)]
pub mod http2;
#[allow(dead_code)]
pub mod load;
#[allow(dead_code)]
pub mod picture;
#[allow(dead_code)]
pub mod proxy;
#[allow(dead_code)]
pub mod redis;
#[allow(dead_code)]
pub mod server;
#[allow(dead_code)]
pub mod tools;
