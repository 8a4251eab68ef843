//! img2text turns images into text over gRPC and keeps, for every user, an account of requests
//! that survives anything.
//!
//! The modules, in the order in which a request meets them:
//!
//! - [`cli`]: the command line, a file per subcommand; `serve` puts the house together.
//! - [`config`]: every setting, with its name, default, unit and environment variable.
//! - [`grpc`]: the edge. A file per service, who may call, and the one mapping from errors to
//!   `google.rpc.Status`. Protobuf types live there and nowhere deeper.
//! - [`recognition`]: the main job in one readable function: reserve, recognise, settle.
//! - [`quota`]: who may spend what. The account, the plans, the atomic steps in Redis.
//! - [`ocr`]: pixels to text. Nothing outside knows Tesseract.
//! - [`redis`]: the connection, the embedded server, what Redis really does with our data.
//! - [`process`]: children that die with us.
//! - [`telemetry`]: the log, traces and metrics.

#![warn(missing_docs)]

pub mod cli;
pub mod config;
pub mod grpc;
pub mod ocr;
pub mod process;
pub mod quota;
pub mod recognition;
pub mod redis;
pub mod telemetry;
