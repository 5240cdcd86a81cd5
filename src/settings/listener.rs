//! An item of `server.listen` and its like: an address for visitors, and what comes before all else there.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::address::ListenAddress;
use super::reader::{self, ReadContext, Section};

/// A traffic listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Its address.
    pub address: ListenAddress,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// Reads a list of listeners: addresses, or tables that say more. `None` where the key is missing.
pub(super) fn read_all(section: &mut Section<'_>, key: &'static str) -> Option<Vec<ListenerSettings>> {
    let context = section.context();
    let items = section.items(key)?.into_iter();
    let listeners = items.filter_map(|(path, item)| match item.kind {
        config::ValueKind::Table(_) => ListenerSettings::read(Section::new(path, item, context), context),
        _ => reader::parse(&path, &item, context).map(ListenerSettings::plain),
    });
    Some(listeners.collect())
}

impl ListenerSettings {
    /// One that speaks HTTP and nothing before it.
    pub const fn plain(address: ListenAddress) -> Self {
        Self { address, proxy_protocol: false }
    }

    fn read(mut section: Section<'_>, context: &ReadContext) -> Option<Self> {
        let path = section.key("address");
        let had_address = section.has("address");
        let address = section.optional("address");
        let proxy_protocol = section.or("proxy_protocol", false);
        section.finish();
        if !had_address {
            context.problem(&path, "is missing, takes an IP address and a port, such as \"[::]:8080\"");
        }
        Some(Self { address: address?, proxy_protocol })
    }
}

impl Serialize for ListenerSettings {
    /// An address alone where there is nothing else to say.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { address, proxy_protocol } = self;
        if *self == Self::plain(*address) {
            return address.serialize(serializer);
        }
        let mut table = serializer.serialize_struct("Listener", 2)?;
        table.serialize_field("address", address)?;
        table.serialize_field("proxy_protocol", proxy_protocol)?;
        table.end()
    }
}
