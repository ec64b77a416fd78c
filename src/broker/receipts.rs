//! Receipts for messages that other brokers deliver: what is known of them so far.

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

/// How long it may take until it is known what became of a message for another broker.
const SETTLE: Duration = Duration::from_secs(10);
/// How long what is on its way may take.
const GRACE: Duration = Duration::from_millis(500);
/// Bytes that a receipt takes, and each id of it, about.
const RECEIPT: usize = 256;
const ID: usize = 64;

/// All receipts that are not yet complete.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    open: Mutex<OpenReceipts>,
}

#[derive(Debug, Default)]
struct OpenReceipts {
    last: u64,
    receipts: HashMap<u64, Receipt, RandomState>,
    /// The receipts that a link knows about, and for which id: by the key of the link.
    links: HashMap<u64, AwaitedReports, RandomState>,
    /// Links that are lost from these times on.
    lost: Vec<(Instant, u64)>,
    /// Questions behind all others of a link, by their numbers.
    fences: HashMap<u64, Fence, RandomState>,
}

/// A question about nothing: when it is answered, all before it have been answered, or are lost.
#[derive(Debug)]
struct Fence {
    link: u64,
    /// The packet that carries it; zero while it has not gone out.
    packet: u64,
    deadline: Instant,
}

/// What a link knows about.
#[derive(Debug)]
struct AwaitedReports {
    id: Arc<str>,
    numbers: HashSet<u64, RandomState>,
}

/// What became of a message for an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Report {
    /// The link with this key knows; it is in this packet, or has not gone out, if that is zero.
    Awaited(u64, u64),
    Known(Option<DeliveryError>),
}

/// An id of a receipt: what became of the message, and the first place of the id in `dest`.
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
    /// Ids that others know about.
    left: usize,
    deadline: Instant,
    _charge: Charge,
}

impl Receipt {
    /// The link that knows about an id, and the packet that carries the message, if that is awaited.
    fn awaits(&self, id: &str) -> Option<(u64, u64)> {
        match self.reports.get(id)?.report {
            Report::Awaited(link, packet) => Some((link, packet)),
            Report::Known(_) => None,
        }
    }

    /// Notes what is known of an id that was awaited; true if that was what was missing.
    fn note(&mut self, id: &str, fault: Option<DeliveryError>) -> bool {
        if let Some(named) = self.reports.get_mut(id) {
            named.report = Report::Known(fault);
            self.left -= 1;
        }
        self.left == 0
    }

    /// Tells who asked. What is not known by now has no answer in time.
    fn send(self) {
        let (mut delivered, mut failed) = (String::new(), String::new());
        let mut reports: Vec<_> = self.reports.iter().collect();
        reports.sort_unstable_by_key(|(_, named)| named.place);
        for (id, Named { report, .. }) in reports {
            let fault = match report {
                Report::Known(None) => None,
                Report::Known(Some(fault)) => Some(fault.receipt_code()),
                Report::Awaited(..) => Some(DeliveryError::Timeout.code()),
            };
            let list = match fault {
                None => &mut delivered,
                Some(_) => &mut failed,
            };
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(&protocol::json_string(id));
            if let Some(code) = fault {
                list.extend([":\"", code, "\""]);
            }
        }
        // Who has gone over to version 1 meanwhile would not understand it.
        if !self.asker.speaks_2() {
            return;
        }
        let frame = version_2::receipt(&self.reference, &delivered, &failed);
        self.asker.outbox.push(&frame);
        self.asker.flush();
    }
}

impl Receipts {
    /// Opens a receipt: some of its ids are known about by the links with these keys. Before anything
    /// is sent that is answered with its number. None if there are none of these.
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
            // One more: the local part is known last.
            left: reports.len() + 1,
            reports,
            deadline: Instant::now() + SETTLE,
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

    /// Adds what is known of the other ids; those that were to be asked about and were not are among
    /// them. `dest`: all ids, in order.
    pub(crate) fn local(
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
        for (id, fault) in known {
            let named = receipt.reports.entry(id);
            let named = named.or_insert_with(|| Named::new(Report::Known(fault)));
            // The first time counts.
            if let Report::Awaited(link, _) = named.report {
                named.report = Report::Known(fault);
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

    /// True while receipts wait for what a link knows.
    pub(crate) fn awaits(&self, link: u64) -> bool {
        self.open.lock().links.contains_key(&link)
    }

    /// A question to be sent behind all others of a link; none if nothing is awaited of it. Those before it
    /// that are not answered when this one is have no answer.
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
            deadline: now + SETTLE,
        };
        open.fences.insert(number, fence);
        Some(number)
    }

    /// A broker says what became of a message for an id.
    pub(crate) fn settle(&self, number: u64, id: &str, fault: Option<DeliveryError>) {
        let mut open = self.open.lock();
        if let Some(Fence { link, packet, .. }) = open.fences.remove(&number) {
            drop(open);
            let is_before = |sent| sent != 0 && sent < packet;
            return self.lose_packets(link, is_before, DeliveryError::Timeout);
        }
        let Some(receipt) = open.receipts.get_mut(&number) else {
            return;
        };
        let Some((link, _)) = receipt.awaits(id) else {
            return;
        };
        let is_done = receipt.note(id, fault);
        open.forget(link, number);
        if is_done {
            let receipt = open.receipts.remove(&number);
            drop(open);
            receipt.into_iter().for_each(Receipt::send);
        }
    }

    /// A link will say nothing more.
    pub(crate) fn fail_link(&self, link: u64, fault: DeliveryError) {
        // Somebody was there, and nobody will say whether he has got it.
        let fault = if fault == DeliveryError::Gone {
            DeliveryError::Timeout
        } else {
            fault
        };
        self.lose_packets(link, |_| true, fault);
    }

    fn lose_packets(&self, link: u64, packets: impl Fn(u64) -> bool, fault: DeliveryError) {
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
                .awaits(&id)
                .is_some_and(|(_, packet)| packets(packet))
            {
                continue;
            }
            if receipt.note(&id, Some(fault)) {
                done.extend(open.receipts.remove(&number));
            }
            open.forget(link, number);
        }
        drop(open);
        done.into_iter().for_each(Receipt::send);
    }

    /// What asks for a receipt goes out with this packet.
    pub(crate) fn sent(&self, number: u64, id: &str, packet: u64) {
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

    /// Nobody has heard this packet of a link, which sends no more. Others may have been heard, before
    /// it, and behind it by somebody new: what is said of them may be on its way.
    pub(crate) fn unheard(&self, link: u64, packet: u64, fault: DeliveryError) {
        let is_lost = |sent| sent == packet || sent == 0;
        self.lose_packets(link, is_lost, fault);
        let mut open = self.open.lock();
        if open.links.contains_key(&link) {
            open.lost.push((Instant::now() + GRACE, link));
        }
    }

    /// Tells those whose time is up.
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
    /// A link knows nothing more of a receipt.
    fn forget(&mut self, link: u64, number: u64) {
        if let Some(known) = self.links.get_mut(&link) {
            known.numbers.remove(&number);
            if known.numbers.is_empty() {
                self.links.remove(&link);
            }
        }
    }
}
