//! What the operating system grants this process: descriptors, files, the service manager.

pub mod fd_limit;
pub mod files;
pub mod sd_notify;
