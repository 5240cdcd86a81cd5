//! The binary is replaced while visitors come.

use std::io::Write;
use std::time::Duration;

use crate::Scenario;
use crate::backend::free_address;
use crate::http::{client, connect_from, read_answer, request};
use crate::load::{Got, Load};
use crate::process::{POOL, Signpost, Start};
use crate::report::Report;

/// 20000 requests at 2000 a second, 200 new connections a second among them, while a successor takes the
/// listeners over, and while another does before the first has finished what was under way. The sockets are the
/// same ones throughout, so nobody has a reason to be refused, reset or told 5xx. A second instance without
/// `--takeover` on an address that is taken must not share its visitors: it says so and exits 1.
pub const SCENARIO: Scenario =
    Scenario { name: "takeover", shows: "the binary replaced under load, three times", seconds: 90, run };

const REQUESTS: usize = 20_000;

fn run(report: &mut Report) {
    let (listen, admin) = (free_address().to_string(), free_address().to_string());
    let settings = format!("[log]\naccess = false\n{POOL}");
    let start = |more: &[&str]| {
        let args = [&["--listen", &listen, "--admin", &admin], more].concat();
        Start::with(&settings).args(&args)
    };
    let first = start(&[]).go();
    let second = start(&[]).command().output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    report.exactly("exit code of a second instance", second.status.code().unwrap_or(-1), 1);
    report.holds("it says which address is taken", said.contains(&format!("can't listen on {listen}")));

    let mut load = Load::on(first.traffic);
    load.per_connection = 10;
    let load = load.start();
    let wait_for = |sent: usize| {
        while load.sent() < sent {
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    wait_for(REQUESTS / 5);
    // What keeps the first one busy for longer than its successor needs to come.
    let whole = request("GET", "/", &[], "");
    let mut slow = connect_from(client(2), first.traffic).unwrap();
    slow.write_all(&whole[..whole.len() - 2]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let second = start(&["--takeover"]).go();
    let third = start(&["--takeover"]).go();
    let mut first = first;
    let draining = first.process.ended(Duration::from_millis(100)).is_none();
    report.holds("the first still has a request under way when the third has taken over", draining);
    slow.write_all(b"\r\n").unwrap();
    let answered = read_answer(&mut slow).is_ok_and(|answer| answer.status == 302);
    report.holds("that request is answered", answered);
    wait_for(REQUESTS / 5 * 3);
    let fourth = start(&["--takeover"]).go();
    wait_for(REQUESTS);
    let shots = load.stop();

    let nothing = |words: &[&str]| {
        let is = |why: &str| words.iter().any(|word| why.contains(word));
        shots.iter().filter(|shot| matches!(&shot.got, Got::Nothing(why) if is(why))).count()
    };
    report.at_least("requests", shots.len() as f64, REQUESTS as f64, "");
    report.exactly("refused", nothing(&["refused"]), 0);
    report.exactly("reset or closed before the answer", nothing(&["reset", "closed", "Broken pipe"]), 0);
    let server_errors = shots.iter().filter(|shot| shot.status().is_some_and(|status| status >= 500)).count();
    report.exactly("answered 5xx", server_errors, 0);
    report.exactly("anything else but a redirect", crate::load::other_than(&shots, 302).0, 0);
    for (name, old) in [("first", first), ("second", second), ("third", third)] {
        report.exactly(&format!("exit code of the {name}"), ended(old), 0);
    }
    report.exactly(
        "exit code of the last, by SIGTERM",
        fourth.leave(Duration::from_secs(40)).unwrap_or(-1),
        0,
    );
}

fn ended(mut old: Signpost) -> i32 {
    old.process.ended(Duration::from_secs(40)).and_then(|status| status.code()).unwrap_or(-1)
}
