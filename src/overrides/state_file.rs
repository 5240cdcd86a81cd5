//! `admin.state_file`: operator overrides as a file.
//!
//! # Trust
//! The file is the operator's, who may edit it while the process is down. One that can't be used in full is not used at
//! all. Contents that are not in effect are moved aside before the first write, so that nothing in them is lost. What is
//! not a regular file is neither read nor replaced.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::{LAST_DATE, OperatorOverride};
use crate::fleet::{AdminState, Weight};
use crate::os::files;

/// One more when an older version would misread the file.
const VERSION: u32 = 1;
/// The largest file that is read: an override has some 100 bytes.
const LONGEST: u64 = 8 << 20;
/// How many symbolic links are followed, as many as Linux follows.
const LINKS: usize = 40;

/// The file as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateDocument {
    version: u32,
    overrides: Vec<OverrideEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OverrideEntry {
    pool: String,
    backend: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admin: Option<AdminState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drained_at: Option<String>,
}

/// What a file contains.
#[derive(Debug)]
pub enum FileContents {
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
    /// Nothing, or nothing worth keeping.
    Anything,
    /// What this process has read or written last.
    Known(Vec<u8>),
    /// Contents that are not in effect. They are moved to a name with this suffix before the next write.
    Ignored(&'static str),
}

impl StateFile {
    /// Reads the file. Blocks.
    pub fn read(path: PathBuf) -> (Self, FileContents) {
        let contents = read(&path).unwrap_or_else(FileContents::Broken);
        let on_disk = match &contents {
            FileContents::Missing => OnDisk::Anything,
            FileContents::Valid(_, bytes) => OnDisk::Known(bytes.clone()),
            FileContents::Broken(_) => OnDisk::Ignored(".broken"),
        };
        (Self { path, on_disk }, contents)
    }

    /// A file that could not be read in time.
    pub fn unread(path: PathBuf) -> Self {
        Self { path, on_disk: OnDisk::Ignored(".broken") }
    }

    /// Its valid contents do not count, because this process has other overrides.
    pub fn supersede(&mut self) {
        self.on_disk = OnDisk::Ignored(".old");
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is missing and waits for its first write.
    pub fn is_missing(&self) -> bool {
        matches!(self.on_disk, OnDisk::Anything)
    }

    /// Whether it has contents that are not in effect.
    pub fn is_ignored(&self) -> bool {
        matches!(self.on_disk, OnDisk::Ignored(_))
    }

    /// Checks that it could be written, without a change to it. Blocks.
    ///
    /// # Errors
    /// Why it could not.
    pub fn check(&self) -> io::Result<()> {
        let (target, about) = target(&self.path)?;
        temporary(&target, about.as_ref(), &[]).map(drop)
    }

    /// Writes overrides. The old contents stay until the new ones are on the disk. Blocks.
    ///
    /// # Errors
    /// Why that was not possible; the old contents are where they were, or aside.
    pub fn write(&mut self, overrides: &[OperatorOverride]) -> io::Result<()> {
        let bytes = document(overrides)?;
        let (target, about) = target(&self.path)?;
        let temporary = temporary(&target, about.as_ref(), &bytes)?;
        match &self.on_disk {
            OnDisk::Known(known) if fs::read(&target).is_ok_and(|found| found != *known) => {
                tracing::warn!(
                    path = %self.path.display(),
                    "state file overwritten: another process has changed it; each process needs its own"
                );
            }
            OnDisk::Ignored(suffix) if about.is_some() => {
                // Replaces an empty file that was just created, and no other file of that name.
                let aside = beside(&target, suffix)?.into_temp_path();
                fs::rename(&target, &aside)?;
                let aside = aside.keep()?;
                let (path, to) = (self.path.display(), aside.display());
                tracing::warn!(%path, %to, "state file moved aside: its contents are not in effect");
            }
            _ => {}
        }
        self.on_disk = OnDisk::Anything;
        temporary.persist(&target)?;
        sync_folder(&target)?;
        self.on_disk = OnDisk::Known(bytes);
        Ok(())
    }
}

/// Returns the file that a path leads to by symbolic links, which keep leading there, and what it is; `None`: it is
/// missing.
fn target(path: &Path) -> io::Result<(PathBuf, Option<Metadata>)> {
    let mut target = path.to_owned();
    for _ in 0..LINKS {
        match fs::symlink_metadata(&target) {
            Ok(about) if about.is_symlink() => {
                let next = fs::read_link(&target)?;
                target.pop();
                target.push(next);
            }
            Ok(about) if about.is_file() => return Ok((target, Some(about))),
            Ok(_) => return Err(io::Error::other("not a regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((target, None)),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// Creates an empty file in the same folder, for this user alone. Its name is random: processes in containers often have
/// the same id. It is removed when it is dropped; a process that is killed leaves it.
fn beside(target: &Path, suffix: &str) -> io::Result<NamedTempFile> {
    let mut prefix = target.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    tempfile::Builder::new().prefix(&prefix).suffix(suffix).tempfile_in(folder(target))
}

/// Writes a file that is to replace the target, down to the disk, with the target's mode and, where that is permitted,
/// its owner.
fn temporary(target: &Path, about: Option<&Metadata>, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = beside(target, ".tmp")?;
    if let Some(about) = about {
        // A restart must be able to read it.
        file.as_file().set_permissions(Permissions::from_mode(about.mode() & 0o777 | 0o400))?;
        let _ = fchown(&file, None, Some(about.gid()));
        let _ = fchown(&file, Some(about.uid()), None);
    }
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Brings a rename down to the disk.
fn sync_folder(target: &Path) -> io::Result<()> {
    match File::open(folder(target))?.sync_all() {
        // Not every file system can do that.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

fn folder(target: &Path) -> &Path {
    target.parent().unwrap_or(target)
}

fn read(path: &Path) -> Result<FileContents, String> {
    let (target, about) = target(path).map_err(|error| error.to_string())?;
    let Some(about) = about else { return Ok(FileContents::Missing) };
    if about.len() > LONGEST {
        return Err(format!("{} bytes (at most {LONGEST} expected)", about.len()));
    }
    let bytes = files::read_first(&target, LONGEST).map_err(|error| error.to_string())?;
    Ok(FileContents::Valid(parse(&bytes)?, bytes))
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
    let document: StateDocument = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    document.overrides.into_iter().map(OperatorOverride::try_from).collect()
}

fn document(overrides: &[OperatorOverride]) -> io::Result<Vec<u8>> {
    let overrides = overrides.iter().map(OverrideEntry::from).collect();
    let mut bytes = serde_json::to_vec_pretty(&StateDocument { version: VERSION, overrides })?;
    bytes.push(b'\n');
    Ok(bytes)
}

impl TryFrom<OverrideEntry> for OperatorOverride {
    type Error = String;

    fn try_from(
        OverrideEntry { pool, backend, admin, weight, drained_at }: OverrideEntry,
    ) -> Result<Self, String> {
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

impl From<&OperatorOverride> for OverrideEntry {
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
