//! A disk that fails, loses power, or is full, and files that cannot be used.

use std::{
    io,
    sync::{Condvar, Mutex, atomic::AtomicBool},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use redb::StorageBackend;

use super::*;

type Outcome<T> = io::Result<T>;

/// A disk in memory. What was written since the last sync may be lost, in any part, if the power fails.
#[derive(Debug, Default, Clone)]
pub(super) struct Disk(Arc<Image>);

#[derive(Debug, Default)]
struct Image {
    state: Mutex<State>,
    /// The next sync fails, after it has done nothing.
    fails_to_sync: AtomicBool,
    /// True while no sync ends.
    is_held: Mutex<bool>,
    released: Condvar,
    /// Bytes of the disk, if it has a limit.
    limit: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// As a reader sees it.
    now: Vec<u8>,
    /// As it was at the last sync.
    synced: Vec<u8>,
    /// Changes since: a length, or bytes at an offset.
    changes: Vec<Change>,
    syncs: usize,
}

#[derive(Debug, Clone)]
enum Change {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

fn apply(change: &Change, image: &mut Vec<u8>) {
    match change {
        Change::Length(length) => image.resize(*length, 0),
        Change::Bytes(at, bytes) => {
            let end = at + bytes.len();
            if image.len() < end {
                image.resize(end, 0);
            }
            image[*at..end].copy_from_slice(bytes);
        }
    }
}

impl Disk {
    fn with_limit(limit: u64) -> Self {
        Self(Arc::new(Image {
            limit: Some(limit),
            ..Image::default()
        }))
    }

    fn change(&self, change: Change) -> Outcome<()> {
        let state = &mut *self.0.state.lock().unwrap();
        let end = match &change {
            Change::Length(length) => *length,
            Change::Bytes(at, bytes) => at + bytes.len(),
        };
        if self.0.limit.is_some_and(|limit| end as u64 > limit) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        apply(&change, &mut state.now);
        state.changes.push(change);
        Ok(())
    }

    /// The disk after the power has failed: each sector that was written since the last sync has its old or its new content.
    fn after_power_failure(&self, random: &mut StdRng) -> Self {
        const SECTOR: usize = 512;
        let state = self.0.state.lock().unwrap();
        let mut image = state.synced.clone();
        for change in &state.changes {
            match change {
                // The order in which lengths change is that of a journal.
                Change::Length(_) => apply(change, &mut image),
                Change::Bytes(at, bytes) => {
                    for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                        if random.random_bool(0.5) {
                            let at = at + number * SECTOR;
                            apply(&Change::Bytes(at, sector.to_vec()), &mut image);
                        }
                    }
                }
            }
        }
        let disk = Self::default();
        {
            let state = &mut *disk.0.state.lock().unwrap();
            (state.now, state.synced) = (image.clone(), image);
        }
        disk
    }

    pub(super) fn fail_next_sync(&self) {
        self.0.fails_to_sync.store(true, Relaxed);
    }

    /// No sync ends while the guard exists.
    pub(super) fn hold(&self) -> Hold {
        *self.0.is_held.lock().unwrap() = true;
        Hold(self.clone())
    }

    pub(super) fn syncs(&self) -> usize {
        self.0.state.lock().unwrap().syncs
    }
}

/// No sync of a disk ends while it exists.
pub(super) struct Hold(Disk);

impl Drop for Hold {
    fn drop(&mut self) {
        *self.0.0.is_held.lock().unwrap() = false;
        self.0.0.released.notify_all();
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Outcome<u64> {
        Ok(self.0.state.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Outcome<()> {
        let state = self.0.state.lock().unwrap();
        let start = offset as usize;
        let Some(bytes) = state.now.get(start..start + out.len()) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Outcome<()> {
        self.change(Change::Length(len as usize))
    }

    fn sync_data(&self) -> Outcome<()> {
        let is_held = self.0.is_held.lock().unwrap();
        drop(self.0.released.wait_while(is_held, |is_held| *is_held));
        let state = &mut *self.0.state.lock().unwrap();
        state.syncs += 1;
        if self.0.fails_to_sync.swap(false, Relaxed) {
            return Err(io::Error::other("sync failed"));
        }
        state.synced = state.now.clone();
        state.changes.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome<()> {
        self.change(Change::Bytes(offset as usize, data.to_vec()))
    }
}

/// Opens a store on a disk. Returns the failures that it reports, too.
fn open_on(disk: &Disk) -> (DiskStore, DiskLog, Arc<Mutex<Vec<String>>>) {
    open_with(disk, BOUNDS)
}

/// Opens a store with these bounds on a disk, likewise.
pub(super) fn open_with(
    disk: &Disk,
    bounds: Bounds,
) -> (DiskStore, DiskLog, Arc<Mutex<Vec<String>>>) {
    let failures = Arc::<Mutex<Vec<String>>>::default();
    let reported = failures.clone();
    let on_failure = move |error: &StoreError| reported.lock().unwrap().push(error.0.to_string());
    let file = File::open_backend(disk.clone(), Path::new("disk")).unwrap();
    let rules = [(">", bounds)];
    let (store, mut logs) =
        DiskStore::start(file, &rules, SETTINGS, &memory(), Box::new(on_failure)).unwrap();
    (store, logs.remove(0), failures)
}

#[tokio::test]
async fn a_power_failure_loses_no_stored_message() {
    let mut random = StdRng::seed_from_u64(7);
    let mut disk = Disk::default();
    let (mut stored_to, mut given) = (Vec::new(), 0);
    for round in 0..60 {
        let (store, log, _) = open_on(&disk);
        assert!(log.last() >= given, "round {round}");
        let (found, start) = (read(&log, ">", Range::After(0)).await, log.last());
        let found: Vec<u64> = found.messages.iter().map(|kept| kept.offset).collect();
        for offset in &stored_to {
            assert!(found.contains(offset), "round {round}: {offset} is lost");
        }
        for number in 0..random.random_range(1..40) {
            let offset = append(&log, &format!("t.{}", number % 5), &"x".repeat(number * 50));
            assert!(offset > start);
            if random.random_bool(0.3) {
                assert_eq!(stored(&log, offset), Ok(Stored::Disk));
                stored_to.push(offset);
            }
            given = offset;
        }
        // The power fails while the writer is busy with the rest.
        disk = disk.after_power_failure(&mut random);
        drop((store, log));
    }
}

#[tokio::test]
async fn a_failed_sync_ends_the_store_and_is_not_repeated() {
    let disk = Disk::default();
    let (store, log, failures) = open_on(&disk);
    let one = append(&log, "a", "one");
    assert_eq!(stored(&log, one), Ok(Stored::Disk));
    disk.fail_next_sync();
    let two = append(&log, "a", "two");
    assert!(stored(&log, two).is_err());
    let syncs = disk.syncs();
    let three = append(&log, "a", "three");
    assert!(stored(&log, three).is_err());
    // One that was stored before is.
    assert_eq!(stored(&log, one), Ok(Stored::Disk));
    store.close();
    assert_eq!(disk.syncs(), syncs);
    assert_eq!(failures.lock().unwrap().len(), 1);
    // Subscribers that were there got both, so their offsets are not given again, and who returns learns that they are gone.
    assert_eq!((one, two, three, log.last()), (1, 2, 3, 3));
    let behind = log.behind("a", 1);
    assert_eq!((behind.trimmed_to, behind.messages), (3, Some(0)));
    drop((store, log));
    let (_store, log, _) = open_on(&disk.after_power_failure(&mut StdRng::seed_from_u64(1)));
    assert!(append(&log, "a", "four") > three);
    let found = texts(&log, "a").await;
    assert_eq!((&*found[0], &**found.last().unwrap()), ("one", "four"));
}

#[tokio::test]
async fn a_full_disk_ends_the_store_and_what_was_stored_remains() {
    let disk = Disk::with_limit(3 << 20);
    let (store, log, failures) = open_on(&disk);
    let text = "x".repeat(10_000);
    let mut last = 0;
    let error = loop {
        let offset = append(&log, "a", &text);
        match stored(&log, offset) {
            Ok(_) => last = offset,
            Err(error) => break error,
        }
    };
    assert!(last > 20, "{last}");
    assert_eq!(*failures.lock().unwrap(), [error.0.to_string()]);
    store.close();
    drop((store, log));
    let larger = disk.after_power_failure(&mut StdRng::seed_from_u64(1));
    let (_store, log, _) = open_on(&larger);
    let found = read(&log, "a", Range::After(0)).await;
    let found: Vec<u64> = found.messages.iter().map(|kept| kept.offset).collect();
    assert!(found.into_iter().take(last as usize).eq(1..=last));
    let next = append(&log, "a", &text);
    assert_eq!(stored(&log, next), Ok(Stored::Disk));
}

#[test]
fn a_store_that_is_in_use_is_refused() {
    let folder = Folder::new();
    let (store, log) = open(&folder.0);
    let error = super::open_with(&folder.0, BOUNDS, SETTINGS).unwrap_err();
    assert!(error.0.contains("in use"), "{error:?}");
    store.close();
    assert!(super::open_with(&folder.0, BOUNDS, SETTINGS).is_ok());
    drop(log);
}

#[test]
fn a_file_of_a_newer_format_and_one_of_another_kind_are_refused() {
    let folder = Folder::new();
    drop(open(&folder.0));
    file::set_format(&folder.0, 2);
    let error = super::open_with(&folder.0, BOUNDS, SETTINGS).unwrap_err();
    assert!(error.0.contains("format 2"), "{error:?}");
    let path = folder.0.join(file::NAME);
    fs::write(&path, "text").unwrap();
    assert!(super::open_with(&folder.0, BOUNDS, SETTINGS).is_err());
    // A folder that cannot be created.
    assert!(super::open_with(&path.join("below"), BOUNDS, SETTINGS).is_err());
}

#[test]
fn a_file_whose_end_is_missing_is_refused() {
    let folder = Folder::new();
    let (store, log) = open(&folder.0);
    let last = append(&log, "a", &"x".repeat(2 << 20));
    assert_eq!(stored(&log, last), Ok(Stored::Disk));
    store.close();
    let path = folder.0.join(file::NAME);
    let length = fs::metadata(&path).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(length - 4096).unwrap();
    assert!(super::open_with(&folder.0, BOUNDS, SETTINGS).is_err());
}

#[tokio::test]
async fn a_damaged_message_ends_the_store_while_it_writes() {
    let disk = Disk::default();
    let (store, log, _) = open_on(&disk);
    for text in ["one", "two"] {
        append(&log, "a", text);
    }
    store.close();
    drop((store, log));
    let file = File::open_backend(disk.clone(), Path::new("disk")).unwrap();
    file::damage(&file, 0, 2);
    file.close();
    let (store, log, failures) = open_on(&disk);
    let gate = disk.hold();
    let (sender, receiver) = std::sync::mpsc::channel();
    for _ in 0..3 {
        let offset = append(&log, "b", "three");
        let sender = sender.clone();
        let done = move |stored: Result<_, _>| sender.send(stored.is_ok()).unwrap();
        log.on_stored(offset, Box::new(done));
    }
    let query = Query {
        pattern: "a".into(),
        range: Range::After(0),
        messages: 9,
        bytes: 1 << 20,
    };
    let error = log.read(&query).await.unwrap_err();
    assert!(error.0.contains("message 2"), "{error:?}");
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [false; 3]);
    drop(gate);
    assert!(store.stats().has_failed);
    assert_eq!(store.stats().not_stored, 3);
    store.close();
    assert_eq!(failures.lock().unwrap().len(), 1);
    drop((store, log));
    // What was on its way to the disk may be there.
    let (_store, log, _) = open_on(&disk);
    let next = append(&log, "b", "four");
    assert!(next > 5);
    assert_eq!(stored(&log, next), Ok(Stored::Disk));
}
