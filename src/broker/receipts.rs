//! Receipts for messages that other brokers deliver, pending until all reports have arrived.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use crate::{
    broker::{handle::Handle, requests::DeliveryError},
    memory::{Charge, Memory},
    protocol::{self, version_2},
};

/// Time limit for the report of another broker about a delivery.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that packets in flight may take after a link was lost.
const GRACE: Duration = Duration::from_millis(500);
/// Approximate bytes charged for a receipt, and for each of its ids.
const RECEIPT: usize = 256;
const ID: usize = 64;

/// All pending receipts of a broker.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    open: Mutex<OpenReceipts>,
}

#[derive(Debug, Default)]
struct OpenReceipts {
    last: u64,
    receipts: HashMap<u64, Receipt, RandomState>,
    /// Receipts that await reports of a link, by the key of the link.
    links: HashMap<u64, AwaitedReports, RandomState>,
    /// Lost links, and the times from which their reports are no longer awaited.
    lost: Vec<(Instant, u64)>,
    /// Confirmations requested behind all others of a link, by number.
    fences: HashMap<u64, Fence, RandomState>,
}

/// Request for confirmation without a message: once it is confirmed, all earlier reports of the link have
/// arrived or are lost.
#[derive(Debug)]
struct Fence {
    link: u64,
    /// The packet that carries it; zero until it is sent.
    packet: u64,
    deadline: Instant,
}

/// Receipts that await reports of one link.
#[derive(Debug)]
struct AwaitedReports {
    id: Arc<str>,
    numbers: HashSet<u64, RandomState>,
}

/// Delivery of a message to one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Report {
    /// The link with this key is to report it. Second: the packet that carries the message, zero until it
    /// is sent.
    Awaited(u64, u64),
    Known(Option<DeliveryError>),
}

/// An id of a receipt: its report, and the first place of the id in `dest`.
#[derive(Debug)]
struct Named {
    report: Report,
    place: usize,
}

impl Named {
    fn new(report: Report) -> Self {
        let place = usize::MAX;
        Self { report, place }
    }
}

#[derive(Debug)]
struct Receipt {
    asker: Arc<Handle>,
    /// The `ref`, as JSON.
    reference: String,
    reports: HashMap<Arc<str>, Named, RandomState>,
    /// Number of reports still awaited.
    left: usize,
    deadline: Instant,
    _charge: Charge,
}

impl Receipt {
    /// Link and packet of an id whose report is awaited.
    fn awaited(&self, id: &str) -> Option<(u64, u64)> {
        match self.reports.get(id)?.report {
            Report::Awaited(link, packet) => Some((link, packet)),
            Report::Known(_) => None,
        }
    }

    /// Records the report of an awaited id. True if the receipt is complete.
    fn record(&mut self, id: &str, error: Option<DeliveryError>) -> bool {
        if let Some(named) = self.reports.get_mut(id) {
            named.report = Report::Known(error);
            self.left -= 1;
        }
        self.left == 0
    }

    /// Sends the receipt. Reports that are missing count as `TIMEOUT`.
    fn send(self) {
        let (mut delivered, mut failed) = (String::new(), String::new());
        let mut reports: Vec<_> = self.reports.iter().collect();
        reports.sort_unstable_by_key(|(_, named)| named.place);
        for (id, Named { report, .. }) in reports {
            let error = match report {
                Report::Known(None) => None,
                Report::Known(Some(error)) => Some(error.receipt_code()),
                Report::Awaited(..) => Some(DeliveryError::Timeout.code()),
            };
            let list = match error {
                None => &mut delivered,
                Some(_) => &mut failed,
            };
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(&protocol::json_string(id));
            if let Some(code) = error {
                list.extend([":\"", code, "\""]);
            }
        }
        // The asker may have registered with version 1 meanwhile, which has no receipts.
        if !self.asker.uses_version_2() {
            return;
        }
        let frame = version_2::receipt(&self.reference, &delivered, &failed);
        self.asker.write(|outbox| outbox.push(&frame));
    }
}

impl Receipts {
    /// Opens a receipt with the ids that the links with these keys are to report. Must be called before its
    /// number is sent. None if no report is awaited.
    pub(crate) fn open(
        &self,
        asker: &Arc<Handle>,
        reference: &str,
        awaited: impl Iterator<Item = (Arc<str>, u64)>,
        memory: &Arc<Memory>,
    ) -> Option<u64> {
        let awaited = awaited.map(|(id, link)| (id, Named::new(Report::Awaited(link, 0))));
        let reports: HashMap<_, _, _> = awaited.collect();
        if reports.is_empty() {
            return None;
        }
        let names: usize = reports.keys().map(|id| ID + id.len()).sum();
        let receipt = Receipt {
            asker: asker.clone(),
            reference: reference.to_owned(),
            // The local part counts as one more report, which comes last.
            left: reports.len() + 1,
            reports,
            deadline: Instant::now() + REPORT_TIMEOUT,
            _charge: Charge::new(memory, RECEIPT + reference.len() + names),
        };
        let mut open = self.open.lock();
        open.last += 1;
        let number = open.last;
        for (id, named) in &receipt.reports {
            if let Report::Awaited(link, _) = named.report {
                let known = open.links.entry(link).or_insert_with(|| AwaitedReports {
                    id: id.clone(),
                    numbers: HashSet::default(),
                });
                known.numbers.insert(number);
            }
        }
        open.receipts.insert(number, receipt);
        Some(number)
    }

    /// Adds the reports known locally, also of awaited ids that could not be sent. `dest`: all ids, in
    /// order.
    pub(crate) fn add_local(
        &self,
        number: u64,
        known: impl Iterator<Item = (Arc<str>, Option<DeliveryError>)>,
        dest: &[Cow<'_, str>],
    ) {
        let mut open = self.open.lock();
        let Some(receipt) = open.receipts.get_mut(&number) else {
            return;
        };
        let mut forgotten = Vec::new();
        for (id, error) in known {
            let named = receipt.reports.entry(id);
            let named = named.or_insert_with(|| Named::new(Report::Known(error)));
            // The first report of an id counts.
            if let Report::Awaited(link, _) = named.report {
                named.report = Report::Known(error);
                receipt.left -= 1;
                forgotten.push(link);
            }
        }
        for (place, id) in dest.iter().enumerate() {
            if let Some(named) = receipt.reports.get_mut(&**id) {
                named.place = named.place.min(place);
            }
        }
        receipt.left -= 1;
        let is_done = receipt.left == 0;
        forgotten
            .into_iter()
            .for_each(|link| open.forget(link, number));
        if is_done {
            let receipt = open.receipts.remove(&number);
            drop(open);
            receipt.into_iter().for_each(Receipt::send);
        }
    }

    /// True while receipts await reports of a link.
    pub(crate) fn is_awaited(&self, link: u64) -> bool {
        self.open.lock().links.contains_key(&link)
    }

    /// Number of a fence for a link, to be sent behind all its other frames; none if no report of the link
    /// is awaited. Reports still missing when the fence is confirmed are lost.
    pub(crate) fn fence(&self, link: u64, now: Instant) -> Option<u64> {
        let mut open = self.open.lock();
        if !open.links.contains_key(&link) {
            return None;
        }
        open.last += 1;
        let number = open.last;
        let fence = Fence {
            link,
            packet: 0,
            deadline: now + REPORT_TIMEOUT,
        };
        open.fences.insert(number, fence);
        Some(number)
    }

    /// Records the report of another broker about an id, or the confirmation of a fence.
    pub(crate) fn on_report(&self, number: u64, id: &str, error: Option<DeliveryError>) {
        let mut open = self.open.lock();
        if let Some(Fence { link, packet, .. }) = open.fences.remove(&number) {
            drop(open);
            let is_before = |sent| sent != 0 && sent < packet;
            return self.lose_packets(link, is_before, DeliveryError::Timeout);
        }
        let Some(receipt) = open.receipts.get_mut(&number) else {
            return;
        };
        let Some((link, _)) = receipt.awaited(id) else {
            return;
        };
        let is_done = receipt.record(id, error);
        open.forget(link, number);
        if is_done {
            let receipt = open.receipts.remove(&number);
            drop(open);
            receipt.into_iter().for_each(Receipt::send);
        }
    }

    /// Ends a link: its missing reports are lost.
    pub(crate) fn fail_link(&self, link: u64, error: DeliveryError) {
        // The receiver existed; whether it got the message is unknown.
        let error = if error == DeliveryError::Gone {
            DeliveryError::Timeout
        } else {
            error
        };
        self.lose_packets(link, |_| true, error);
    }

    fn lose_packets(&self, link: u64, packets: impl Fn(u64) -> bool, error: DeliveryError) {
        let mut open = self.open.lock();
        let Some(known) = open.links.get(&link) else {
            return;
        };
        let id = known.id.clone();
        let numbers: Vec<_> = known.numbers.iter().copied().collect();
        let mut done = Vec::new();
        for number in numbers {
            let Some(receipt) = open.receipts.get_mut(&number) else {
                continue;
            };
            if !receipt
                .awaited(&id)
                .is_some_and(|(_, packet)| packets(packet))
            {
                continue;
            }
            if receipt.record(&id, Some(error)) {
                done.extend(open.receipts.remove(&number));
            }
            open.forget(link, number);
        }
        drop(open);
        done.into_iter().for_each(Receipt::send);
    }

    /// Records the packet that carries a message, or a fence.
    pub(crate) fn on_sent(&self, number: u64, id: &str, packet: u64) {
        let mut open = self.open.lock();
        if let Some(fence) = open.fences.get_mut(&number) {
            fence.packet = packet;
            return;
        }
        let receipt = open.receipts.get_mut(&number);
        let named = receipt.and_then(|receipt| receipt.reports.get_mut(id));
        if let Some(Named {
            report: Report::Awaited(_, sent),
            ..
        }) = named
        {
            *sent = packet;
        }
    }

    /// Records that a packet of a link, which sends no more, reached no broker. Reports of other packets
    /// may still be in flight: they are awaited for [`GRACE`].
    pub(crate) fn on_no_responders(&self, link: u64, packet: u64, error: DeliveryError) {
        let is_lost = |sent| sent == packet || sent == 0;
        self.lose_packets(link, is_lost, error);
        let mut open = self.open.lock();
        if open.links.contains_key(&link) {
            open.lost.push((Instant::now() + GRACE, link));
        }
    }

    /// Sends receipts whose time is up.
    pub(crate) fn expire(&self, now: Instant) {
        let is_due = |lost: &mut (Instant, u64)| lost.0 <= now;
        let due: Vec<_> = self.open.lock().lost.extract_if(.., is_due).collect();
        for (_, link) in due {
            self.lose_packets(link, |_| true, DeliveryError::Timeout);
        }
        let mut open = self.open.lock();
        open.fences.retain(|_, fence| fence.deadline > now);
        let late: Vec<_> = (open.receipts)
            .extract_if(|_, receipt| receipt.deadline <= now)
            .collect();
        for (number, receipt) in &late {
            for named in receipt.reports.values() {
                if let Report::Awaited(link, _) = named.report {
                    open.forget(link, *number);
                }
            }
        }
        drop(open);
        late.into_iter().for_each(|(_, receipt)| receipt.send());
    }
}

impl OpenReceipts {
    /// Ends the wait of a receipt for a link.
    fn forget(&mut self, link: u64, number: u64) {
        if let Some(known) = self.links.get_mut(&link) {
            known.numbers.remove(&number);
            if known.numbers.is_empty() {
                self.links.remove(&link);
            }
        }
    }
}
