//! `admin.state_file`: operator overrides as a file.
//!
//! # Trust
//! The file is the operator's, who may edit it while the process is down. One that can't be used in full is not used at
//! all, and is moved aside before the first write, so that nothing in it is lost.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{LAST_DATE, OperatorOverride};
use crate::fleet::{Admin, Weight};

/// One more when an older version would misread the file.
const VERSION: u32 = 1;
/// The largest file that is read: an override has some 100 bytes.
const LONGEST: u64 = 8 << 20;

/// The file as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    overrides: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    pool: String,
    backend: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admin: Option<Admin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drained_at: Option<String>,
}

/// What a file contains.
#[derive(Debug)]
pub enum Contents {
    /// There is no file.
    Missing,
    /// Overrides, and the bytes that they were read from.
    Valid(Vec<OperatorOverride>, Vec<u8>),
    /// Something else, or nothing that can be read; with the reason.
    Broken(String),
}

/// A state file, and what this process knows of its contents.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    on_disk: OnDisk,
}

#[derive(Debug)]
enum OnDisk {
    /// Anything. It is replaced with the next write.
    Anything,
    /// Something that can't be used. It is moved aside before the next write.
    Broken,
    /// What this process has read or written last.
    Known(Vec<u8>),
}

impl StateFile {
    /// Reads the file of a process that starts. Blocks.
    pub fn read(path: PathBuf) -> (Self, Contents) {
        let contents = read(&path).unwrap_or_else(Contents::Broken);
        let on_disk = match &contents {
            Contents::Missing => OnDisk::Anything,
            Contents::Valid(_, bytes) => OnDisk::Known(bytes.clone()),
            Contents::Broken(_) => OnDisk::Broken,
        };
        (Self { path, on_disk }, contents)
    }

    /// A file that could not be read in time.
    pub fn unread(path: PathBuf) -> Self {
        Self { path, on_disk: OnDisk::Broken }
    }

    /// A file whose contents do not count, because this process has overrides already. Blocks.
    pub fn replace(path: PathBuf) -> Self {
        let (mut file, _) = Self::read(path);
        if let OnDisk::Known(_) = file.on_disk {
            file.on_disk = OnDisk::Anything;
        }
        file
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it waits for its first write: there is no file, or its contents do not count.
    pub fn is_to_be_written(&self) -> bool {
        matches!(self.on_disk, OnDisk::Anything)
    }

    /// Checks that it could be written, without a change to it. Blocks.
    ///
    /// # Errors
    /// Why it could not.
    pub fn check(&self) -> io::Result<()> {
        Temporary::create(&self.path, &[]).map(drop)
    }

    /// Writes overrides, unless they are what it contains. Its old contents stay until the new ones are on the disk.
    /// Blocks.
    ///
    /// # Errors
    /// Why that was not possible; the file is as it was.
    pub fn write(&mut self, overrides: &[OperatorOverride]) -> io::Result<()> {
        let bytes = document(overrides)?;
        match &self.on_disk {
            OnDisk::Known(known) if *known == bytes => return Ok(()),
            OnDisk::Known(known) => {
                if fs::read(&self.path).is_ok_and(|found| found != *known) {
                    tracing::warn!(
                        path = %self.path.display(),
                        "state file overwritten: another process has changed it; each process needs its own"
                    );
                }
            }
            OnDisk::Broken => {
                let mut aside = self.path.clone().into_os_string();
                aside.push(".broken");
                match fs::rename(&self.path, &aside) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                    Ok(()) => {
                        let (path, to) = (self.path.display(), aside.display());
                        tracing::warn!(%path, %to, "broken state file moved aside");
                    }
                }
                self.on_disk = OnDisk::Anything;
            }
            OnDisk::Anything => {}
        }
        Temporary::create(&self.path, &bytes)?.replace()?;
        self.on_disk = OnDisk::Known(bytes);
        Ok(())
    }
}

/// A file in the same folder, removed unless it replaces the other.
struct Temporary {
    path: PathBuf,
    target: PathBuf,
    is_there: bool,
}

impl Temporary {
    /// Writes it, down to the disk.
    fn create(target: &Path, bytes: &[u8]) -> io::Result<Self> {
        // A symbolic link keeps leading where it led.
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        let mut path = target.clone().into_os_string();
        path.push(format!(".{}.tmp", std::process::id()));
        let path = PathBuf::from(path);
        // One of a process of the same id that was killed.
        let _ = fs::remove_file(&path);
        let mut file = File::create_new(&path)?;
        let this = Self { path, target, is_there: true };
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(this)
    }

    /// Puts it in the target's place.
    fn replace(mut self) -> io::Result<()> {
        fs::rename(&self.path, &self.target)?;
        self.is_there = false;
        let Some(folder) = self.target.parent() else { return Ok(()) };
        match File::open(folder)?.sync_all() {
            // Not every file system can do that.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.is_there {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn read(path: &Path) -> Result<Contents, String> {
    let about = match fs::metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::Missing),
        Err(error) => return Err(error.to_string()),
    };
    if !about.is_file() {
        return Err("not a regular file".to_owned());
    }
    if about.len() > LONGEST {
        return Err(format!("{} bytes (at most {LONGEST} expected)", about.len()));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    Ok(Contents::Valid(parse(&bytes)?, bytes))
}

fn parse(bytes: &[u8]) -> Result<Vec<OperatorOverride>, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("version {version} (version {VERSION} expected)"));
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    document.overrides.into_iter().map(OperatorOverride::try_from).collect()
}

fn document(overrides: &[OperatorOverride]) -> io::Result<Vec<u8>> {
    let overrides = overrides.iter().map(Entry::from).collect();
    let mut bytes = serde_json::to_vec_pretty(&Document { version: VERSION, overrides })?;
    bytes.push(b'\n');
    Ok(bytes)
}

impl TryFrom<Entry> for OperatorOverride {
    type Error = String;

    fn try_from(Entry { pool, backend, admin, weight, drained_at }: Entry) -> Result<Self, String> {
        if let Some(weight) = weight.filter(|&weight| Weight::new(weight).is_none()) {
            return Err(format!("weight {weight} (0 to {} expected)", Weight::MAX));
        }
        let seconds = |text: String| {
            let time =
                humantime::parse_rfc3339(&text).map_err(|error| format!("drained_at {text:?}: {error}"))?;
            Ok::<_, String>(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
        };
        Ok(Self { pool, backend, admin, weight, drained_at: drained_at.map(seconds).transpose()? })
    }
}

impl From<&OperatorOverride> for Entry {
    fn from(set: &OperatorOverride) -> Self {
        let text = |seconds: u64| {
            let time = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_DATE));
            humantime::format_rfc3339_seconds(time).to_string()
        };
        Self {
            pool: set.pool.clone(),
            backend: set.backend.clone(),
            admin: set.admin,
            weight: set.weight,
            drained_at: set.drained_at.map(text),
        }
    }
}
