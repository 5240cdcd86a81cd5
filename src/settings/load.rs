//! `[pools.NAME.load]`: where a pool's backends tell their load.

use std::fmt;

use http::HeaderName;
use serde::{Serialize, Serializer};

use super::names;
use super::reader::{ReadContext, Section};
use super::values::{HumanDuration, SettingValue, serialize_as_string, value_by_name};
use super::{PoolSettings, ProbeKind};
use crate::util::enum_all;

/// Where the backends of a pool tell their load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadSettings {
    /// Where it is read. A push is taken whatever this is.
    pub source: ReportSource,
    /// The header of a probe's answer: one of ORCA's forms, or a number in `unit`.
    pub header: HeaderFieldName,
    /// What a number is that stands alone.
    pub unit: LoadUnit,
    /// Where the load is in the JSON body of the response to a probe, RFC 6901.
    pub json_pointer: JsonPointer,
    /// The port on which a backend's agent says its line; 0: none.
    pub agent_port: AgentPort,
    /// How long a report is used.
    pub max_age: HumanDuration,
}

impl Default for LoadSettings {
    fn default() -> Self {
        Self {
            source: ReportSource::Push,
            header: HeaderFieldName(HeaderName::from_static("endpoint-load-metrics")),
            unit: LoadUnit::Utilization,
            json_pointer: JsonPointer("/load".to_owned()),
            agent_port: AgentPort(0),
            max_age: HumanDuration::seconds(15),
        }
    }
}

impl LoadSettings {
    /// Whether agents are asked, at the pace of probes.
    pub fn asks_agents(&self) -> bool {
        self.source == ReportSource::Agent
    }

    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let load = Self {
            source: section.or("source", default.source),
            header: section.or("header", default.header),
            unit: section.or("unit", default.unit),
            json_pointer: section.or("json_pointer", default.json_pointer),
            agent_port: section.or("agent_port", default.agent_port),
            max_age: section
                .within("max_age", default.max_age, "a duration of more than 0", |span| !span.0.is_zero()),
        };
        section.finish();
        load
    }
}

/// Notes reports that could never come, and warns of settings that have no effect.
pub(super) fn check(
    pool: &PoolSettings,
    load: &LoadSettings,
    context: &ReadContext,
    warnings: &mut Vec<String>,
) {
    let key = |name: &str| format!("pools.{}.load.{name}", pool.name.as_str());
    let problem = |name: &str, text: String| context.problem(&key(name), text);
    let (health, usual, source) = (&pool.health, LoadSettings::default(), load.source);
    let by_probe = matches!(source, ReportSource::ProbeHeader | ReportSource::ProbeJson);
    if by_probe && health.kind != ProbeKind::Http {
        problem(
            "source",
            format!(
                "got \"{}\", but health.kind is \"{}\", so no answer is read; takes it beside health.kind = \"http\"",
                source.name(),
                health.kind.name()
            ),
        );
    }
    if source == ReportSource::ProbeJson
        && health.kind == ProbeKind::Http
        && let Some(response) = health.bodiless()
    {
        problem("source", format!("got \"probe_json\", and {response} has no body"));
    }
    if source == ReportSource::Agent && load.agent_port.0 == 0 {
        problem("agent_port", "there is none, takes the port of the backends' agents".to_owned());
    }
    if source != ReportSource::Push && load.max_age.0 <= health.interval.0 {
        problem(
            "max_age",
            format!(
                "got \"{}\", which is over before the next report; takes more than health.interval, \"{}\"",
                load.max_age, health.interval
            ),
        );
    }
    let unused = [
        ("header", load.header != usual.header && source != ReportSource::ProbeHeader),
        ("json_pointer", load.json_pointer != usual.json_pointer && source != ReportSource::ProbeJson),
        ("unit", load.unit != usual.unit && !by_probe),
        ("agent_port", load.agent_port != usual.agent_port && source != ReportSource::Agent),
    ];
    for (name, _) in unused.into_iter().filter(|(_, is_set)| *is_set) {
        warnings.push(format!("{} has no effect while load.source is \"{}\"", key(name), source.name()));
    }
}

enum_all! {
    /// Where a backend's load is read.
    pub enum ReportSource {
        /// In a header of its answer to a probe.
        ProbeHeader = "probe_header",
        /// In the JSON body of that answer.
        ProbeJson = "probe_json",
        /// In the line that its agent says on a port of its own, as for HAProxy's `agent-check`.
        Agent = "agent",
        /// Nowhere: it pushes.
        Push = "push",
    }
}

enum_all! {
    /// What a number is that stands alone.
    pub enum LoadUnit {
        /// Active sessions.
        Sessions = "sessions",
        /// The share in use, 1 is full.
        Utilization = "utilization",
        /// The same in hundredths.
        Percent = "percent",
        /// Requests served a second.
        RequestsPerSecond = "requests_per_second",
    }
}

/// A port, 0 to 65535; 0: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AgentPort(pub u16);

impl SettingValue for AgentPort {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| "a port from 1 to 65535, or 0 for none".to_owned())
    }
}

value_by_name!(ReportSource, LoadUnit);
serialize_as_string!(HeaderFieldName, JsonPointer);

/// The name of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderFieldName(pub HeaderName);

impl SettingValue for HeaderFieldName {
    fn parse(text: &str) -> Result<Self, String> {
        let name = names::field_name(text);
        name.map(Self).ok_or_else(|| "the name of a header, such as \"x-load\"".to_owned())
    }
}

impl fmt::Display for HeaderFieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// A JSON pointer, RFC 6901: empty for the whole document, or parts that begin with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer(String);

impl JsonPointer {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SettingValue for JsonPointer {
    fn parse(text: &str) -> Result<Self, String> {
        let escapes = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        if (text.is_empty() || text.starts_with('/')) && escapes {
            Ok(Self(text.to_owned()))
        } else {
            Err("a JSON pointer such as \"/load\" or \"/status/sessions\"; \"\" is the whole body".to_owned())
        }
    }
}

impl fmt::Display for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_and_names_are_what_their_rfcs_say() {
        for text in ["", "/load", "/a/b~1c", "/~0"] {
            assert_eq!(JsonPointer::parse(text).unwrap().to_string(), text);
        }
        for bad in ["load", "/a~", "/a~2"] {
            assert!(JsonPointer::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(HeaderFieldName::parse("X-Load").unwrap().to_string(), "x-load");
        for bad in ["", "a b", "a:"] {
            assert!(HeaderFieldName::parse(bad).is_err(), "{bad}");
        }
    }
}
