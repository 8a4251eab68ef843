//! The file of a backup: lines of JSON, compressed, and a seal over the compressed bytes.
//!
//! It is two members of gzip, one after the other, so `zcat` reads it. The first holds a header, a
//! record a line, and at the end the manifest with what was counted. The second, the seal, has a
//! fixed length and holds the SHA-256 of every byte before it: not one byte can change unseen.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Error;

/// What the header says that the file is.
const FORMAT: &str = "img2text-backup";
/// The version of the format that is written, and the latest that is read.
const VERSION: u32 = 1;
/// What is written before it is whole, in the directory of the backup.
const PARTIAL: &str = ".img2text-backup.partial";
/// The longest record that is read, in bytes: many times the largest account.
const RECORD_BYTES_MAX: u64 = 256 << 20;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The first.
    Header {
        /// Always `img2text-backup`.
        format: String,
        /// The version of the format.
        version: u32,
        /// When the backup was begun, in Unix milliseconds.
        created_ms: u64,
    },
    /// A user, read at one instant.
    User {
        /// The user's id.
        user: String,
        /// The keys that were there: `main`, `account`, …
        keys: Vec<Key>,
    },
    /// A key that belongs to no user.
    Server {
        /// The key, by its whole name.
        key: Key,
    },
    /// The last.
    Manifest(Summary),
}

/// What a backup holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Records of users.
    pub users: u64,
    /// Keys of users.
    pub user_keys: u64,
    /// Keys that belong to no user.
    pub server_keys: u64,
}

impl Summary {
    fn count(&mut self, record: &Record) {
        match record {
            Record::User { keys, .. } => {
                self.users += 1;
                self.user_keys += keys.len() as u64;
            }
            Record::Server { .. } => self.server_keys += 1,
            Record::Header { .. } | Record::Manifest(_) => {}
        }
    }
}

/// A key and all that is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// What it is called.
    pub name: String,
    /// How long it is still to live, in milliseconds, if not for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// What is in it.
    #[serde(flatten)]
    pub content: Content,
}

/// What is in a key. Hashes and sets are sorted, so that the same content looks the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "lowercase")]
pub enum Content {
    /// A string.
    String(Text),
    /// Fields and their values.
    Hash(Vec<(Text, Text)>),
    /// Entries from first to last.
    List(Vec<Text>),
    /// Members.
    Set(Vec<Text>),
    /// Members and their scores.
    Zset(Vec<(Text, Text)>),
}

/// Bytes: a JSON string where they are text, else `{"base64": …}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "TextForm", into = "TextForm")]
pub struct Text(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TextForm {
    Text(String),
    Binary { base64: String },
}

impl From<Text> for TextForm {
    fn from(text: Text) -> Self {
        match String::from_utf8(text.0) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Binary { base64: BASE64.encode(error.as_bytes()) },
        }
    }
}

impl TryFrom<TextForm> for Text {
    type Error = base64::DecodeError;

    fn try_from(form: TextForm) -> Result<Self, Self::Error> {
        Ok(Self(match form {
            TextForm::Text(text) => text.into_bytes(),
            TextForm::Binary { base64 } => BASE64.decode(base64)?,
        }))
    }
}

/// A backup that is being written. Dropped before [`Writer::finish`] it leaves nothing behind.
pub struct Writer {
    path: PathBuf,
    partial: PathBuf,
    output: Option<GzEncoder<Digesting>>,
    summary: Summary,
}

impl Writer {
    /// Begins a backup. Nothing is at `path` until it is whole.
    pub fn create(path: &Path, created_ms: u64) -> Result<Self, Error> {
        if path.exists() {
            return Err(Error::Exists(path.into()));
        }
        let partial = directory_of(path).join(PARTIAL);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&partial)
            .map_err(Error::io(&partial))?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        // One that was just finished bears another name by now, and is none of ours.
        let inode = |metadata: io::Result<fs::Metadata>| metadata.ok().map(|found| found.ino());
        if !locked || inode(file.metadata()) != inode(fs::metadata(&partial)) {
            return Err(Error::Busy(directory_of(path)));
        }
        // What an interrupted backup has left.
        file.set_len(0).map_err(Error::io(&partial))?;
        let output = Digesting { file: BufWriter::new(file), digest: Sha256::new() };
        let output = Some(GzEncoder::new(output, Compression::default()));
        let mut writer = Self { path: path.into(), partial, output, summary: Summary::default() };
        writer.write(&Record::Header { format: FORMAT.into(), version: VERSION, created_ms })?;
        Ok(writer)
    }

    /// Adds a record.
    pub fn write(&mut self, record: &Record) -> Result<(), Error> {
        self.summary.count(record);
        let output = self.output.as_mut().expect("there until finish");
        let mut line = serde_json::to_vec(record).expect("records are plain values");
        line.push(b'\n');
        output.write_all(&line).map_err(Error::io(&self.partial))
    }

    /// Ends the backup: it is on the disk, whole, under its name.
    pub fn finish(mut self) -> Result<Summary, Error> {
        self.write(&Record::Manifest(self.summary))?;
        let output = self.output.take().expect("there until finish");
        // Locked until it bears its name.
        let _file = self.seal(output).map_err(Error::io(&self.partial))?;
        fs::rename(&self.partial, &self.path).map_err(Error::io(&self.path))?;
        let directory = directory_of(&self.path);
        let synced = File::open(&directory).and_then(|directory| directory.sync_all());
        synced.map_err(Error::io(&directory))?;
        Ok(self.summary)
    }

    fn seal(&self, output: GzEncoder<Digesting>) -> io::Result<File> {
        let Digesting { mut file, digest } = output.finish()?;
        file.write_all(&seal(&digest.finalize()))?;
        let file = file.into_inner()?;
        file.sync_all()?;
        Ok(file)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.output.is_some() {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// A file that knows the digest of what was written to it.
struct Digesting {
    file: BufWriter<File>,
    digest: Sha256,
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => PathBuf::from("."),
    }
}

/// The last bytes of a file: a gzip member that is not compressed, so that it is the same wherever
/// it is made (RFC 1951 and 1952).
fn seal(digest: &[u8]) -> Vec<u8> {
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = format!("{{\"record\":\"seal\",\"sha256\":\"{digest}\"}}\n").into_bytes();
    let length = line.len() as u16;
    let mut crc = Crc::new();
    crc.update(&line);
    // The magic number, deflate, no flags, no time, nothing special, an unknown system.
    let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    // The last block, stored.
    member.push(1);
    member.extend(length.to_le_bytes());
    member.extend((!length).to_le_bytes());
    member.extend(&line);
    member.extend(crc.sum().to_le_bytes());
    member.extend(u32::from(length).to_le_bytes());
    member
}

/// A backup that was verified. It stays open, so that what is read is what was verified.
pub struct Archive {
    path: PathBuf,
    file: File,
    created_ms: u64,
    summary: Summary,
}

impl Archive {
    /// Opens a backup and verifies every byte of it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        verify_seal(path, &mut file)?;
        let mut archive =
            Self { path: path.into(), file, created_ms: 0, summary: Summary::default() };
        archive.verify_records()?;
        Ok(archive)
    }

    /// What it holds.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// When it was begun, in Unix milliseconds.
    pub fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// Its users and keys.
    pub fn records(&self) -> Result<impl Iterator<Item = Result<Record, Error>>, Error> {
        let lines = self.lines()?;
        Ok(lines
            .filter(|record| !matches!(record, Ok(Record::Header { .. } | Record::Manifest(_)))))
    }

    fn lines(&self) -> Result<Lines, Error> {
        let mut file = self.file.try_clone().map_err(Error::io(&self.path))?;
        file.seek(SeekFrom::Start(0)).map_err(Error::io(&self.path))?;
        let input = BufReader::new(GzDecoder::new(BufReader::new(file)));
        Ok(Lines { path: self.path.clone(), input })
    }

    fn verify_records(&mut self) -> Result<(), Error> {
        let mut lines = self.lines()?;
        self.created_ms = match lines.next() {
            Some(Ok(Record::Header { format, version, created_ms })) if format == FORMAT => {
                if version > VERSION {
                    return Err(Error::TooNew { found: version, known: VERSION });
                }
                created_ms
            }
            _ => return Err(Error::damaged(&self.path, "it does not begin with a header")),
        };
        let mut manifest = None;
        for record in lines {
            let record = record?;
            if manifest.is_some() {
                return Err(Error::damaged(&self.path, "something follows its manifest"));
            }
            self.summary.count(&record);
            if let Record::Manifest(counted) = record {
                manifest = Some(counted);
            }
        }
        match manifest {
            Some(counted) if counted == self.summary => Ok(()),
            Some(_) => Err(Error::damaged(&self.path, "its records are not what was counted")),
            None => Err(Error::damaged(&self.path, "it ends before its manifest")),
        }
    }
}

fn verify_seal(path: &Path, file: &mut File) -> Result<(), Error> {
    let seal_length = seal(&[0; 32]).len();
    let length = file.metadata().map_err(Error::io(path))?.len();
    let sealed = length
        .checked_sub(seal_length as u64)
        .ok_or_else(|| Error::damaged(path, "it is too short"))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut input = BufReader::new(&mut *file).take(sealed);
    loop {
        let read = input.read(&mut buffer).map_err(Error::io(path))?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
    }
    let mut found = Vec::new();
    input.into_inner().read_to_end(&mut found).map_err(Error::io(path))?;
    if found != seal(&digest.finalize()) {
        return Err(Error::damaged(path, "it was cut off or changed after it was written"));
    }
    Ok(())
}

/// The records of the first member.
struct Lines {
    path: PathBuf,
    input: BufReader<GzDecoder<BufReader<File>>>,
}

impl Iterator for Lines {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        match self.input.by_ref().take(RECORD_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_slice(&line).map_err(|error| {
                Error::damaged(&self.path, format!("a record cannot be read: {error}"))
            })),
            Err(error) => Some(Err(Error::damaged(&self.path, error.to_string()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Text {
        Text(text.into())
    }

    fn records() -> Vec<Record> {
        let main = Content::Hash(vec![(text("free_used"), text("3"))]);
        let binary = Content::String(Text(vec![0xff, 0, 0x80]));
        let expiries = Content::Zset(vec![(text("r"), text("1905206400000"))]);
        vec![
            Record::User {
                user: "42".into(),
                keys: vec![
                    Key { name: "main".into(), remaining_ms: None, content: main },
                    Key { name: "expiries".into(), remaining_ms: Some(7), content: expiries },
                ],
            },
            Record::Server { key: Key { name: "k".into(), remaining_ms: None, content: binary } },
        ]
    }

    fn written(directory: &Path) -> PathBuf {
        let path = directory.join("backup");
        let mut writer = Writer::create(&path, 1_000).unwrap();
        records().iter().for_each(|record| writer.write(record).unwrap());
        let summary = writer.finish().unwrap();
        assert_eq!(summary, Summary { users: 1, user_keys: 2, server_keys: 1 });
        path
    }

    #[test]
    fn what_was_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let archive = Archive::open(&written(directory.path())).unwrap();
        assert_eq!(archive.created_ms(), 1_000);
        let read: Result<Vec<_>, _> = archive.records().unwrap().collect();
        assert_eq!(read.unwrap(), records());
    }

    #[test]
    fn no_bit_can_change_and_no_byte_be_lost_unseen() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(directory.path());
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            let error = Archive::open(&path).err();
            assert!(matches!(error, Some(Error::Damaged { .. })), "bit {bit}: {error:?}");
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(Archive::open(&path).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn an_interrupted_backup_leaves_nothing_of_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backup");
        drop(Writer::create(&path, 1).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let writer = Writer::create(&path, 1).unwrap();
        assert!(matches!(Writer::create(&path, 1), Err(Error::Busy(_))));
        // As SIGKILL would leave it: the next one takes over.
        let partial = fs::read(&writer.partial).unwrap();
        drop(writer);
        fs::write(directory.path().join(PARTIAL), partial).unwrap();
        assert!(Archive::open(&directory.path().join(PARTIAL)).is_err());
        written(directory.path());
        assert!(matches!(Writer::create(&path, 1), Err(Error::Exists(_))));
    }

    #[test]
    fn a_later_format_is_refused_by_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backup");
        let mut writer = Writer::create(&path, 1).unwrap();
        let file = File::create(&writer.partial).unwrap();
        let output = Digesting { file: BufWriter::new(file), digest: Sha256::new() };
        drop(writer.output.replace(GzEncoder::new(output, Compression::default())));
        let header = Record::Header { format: FORMAT.into(), version: 2, created_ms: 1 };
        writer.write(&header).unwrap();
        writer.finish().unwrap();
        let error = Archive::open(&path).err().unwrap();
        assert!(matches!(error, Error::TooNew { found: 2, known: 1 }));
        assert!(error.to_string().contains("format 2"), "{error}");
    }
}
