//! Trains profile-guided optimization: every row's requests, served by a binary that counts what it runs.

use std::path::Path;

use crate::clients::Clients;
use crate::table::ROWS;

/// How many requests of each row are sent: enough that starting and ending the process weigh little.
const REQUESTS: u32 = 4000;

/// Has the binary serve the requests of every row, and write its profiles to a folder, a file each named `signpost-…`.
pub fn run(profiles: &Path) {
    let file = format!("LLVM_PROFILE_FILE={}/signpost-%p.profraw", profiles.display());
    for row in &ROWS {
        let mut clients = Clients::start(row.manner, &["env", &file]);
        clients.arrive();
        (0..REQUESTS / row.manner.at_once).for_each(|_| clients.come());
        clients.leave();
        println!("trained by {}", row.name);
    }
}
