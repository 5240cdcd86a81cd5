//! What end-to-end tests and benches share: the binary and other processes, HTTP/1.1 and TLS as clients speak them,
//! backends, load, and figures beside their bounds. Each of them includes this by its path and uses a part of it.

pub mod backend;
pub mod http;
pub mod load;
pub mod process;
pub mod report;
pub mod tls;
