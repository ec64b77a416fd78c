//! The metrics as text for Prometheus: its text format 0.0.4, or OpenMetrics 1.0.

use std::fmt::Write as _;

use super::{
    Stats,
    counters::BOUNDS,
    families::{FAMILIES, Family, Kind, Value},
};

/// The prefix of all names.
const PREFIX: &str = "wsmsgbroker_";

/// A format of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The text format of Prometheus, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.
    OpenMetrics,
}

impl Format {
    /// The media type of the text.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Stats {
    /// All metrics as text, without the `# EOF` that ends an OpenMetrics text.
    pub fn exposition(&self, format: Format) -> String {
        let mut text = String::with_capacity(16 << 10);
        for family in FAMILIES {
            write_family(&mut text, family, &(family.value)(self), format);
        }
        text
    }
}

fn write_family(text: &mut String, family: &Family, value: &Value, format: Format) {
    if *value == Value::Absent {
        return;
    }
    let suffix = match family.kind {
        Kind::Counter => "_total",
        Kind::Gauge | Kind::Histogram => "",
    };
    // OpenMetrics names a counter without its suffix.
    let described = match format {
        Format::Prometheus => suffix,
        Format::OpenMetrics => "",
    };
    let Family { name, help, .. } = family;
    let kind = family.kind.name();
    let _ = writeln!(text, "# HELP {PREFIX}{name}{described} {help}.");
    let _ = writeln!(text, "# TYPE {PREFIX}{name}{described} {kind}");
    match value {
        Value::Absent => {}
        Value::Number(number) => {
            let _ = writeln!(text, "{PREFIX}{name}{suffix} {number}");
        }
        Value::Info(label, of) => {
            let _ = writeln!(text, "{PREFIX}{name}{suffix}{{{label}=\"{of}\"}} 1");
        }
        Value::Labelled(label, counts) => {
            for (of, count) in &counts.0 {
                let _ = writeln!(text, "{PREFIX}{name}{suffix}{{{label}=\"{of}\"}} {count}");
            }
        }
        Value::Times(times) => {
            let mut below = 0;
            let bounds = BOUNDS.iter().map(|bound| bound.as_secs_f64().to_string());
            for (count, bound) in times.buckets.iter().zip(bounds.chain(["+Inf".to_owned()])) {
                below += count;
                let _ = writeln!(text, "{PREFIX}{name}_bucket{{le=\"{bound}\"}} {below}");
            }
            let _ = writeln!(text, "{PREFIX}{name}_sum {}", times.sum.as_secs_f64());
            let _ = writeln!(text, "{PREFIX}{name}_count {below}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{ByLabel, ClusterStats};

    #[test]
    fn a_counter_has_its_suffix_in_the_samples_of_both_formats() {
        let stats = Stats {
            messages_in: 3,
            ..Stats::default()
        };
        let text = stats.exposition(Format::Prometheus);
        assert!(text.contains("# TYPE wsmsgbroker_messages_received_total counter\n"));
        assert!(text.contains("\nwsmsgbroker_messages_received_total 3\n"));
        let text = stats.exposition(Format::OpenMetrics);
        assert!(text.contains("# TYPE wsmsgbroker_messages_received counter\n"));
        assert!(text.contains("\nwsmsgbroker_messages_received_total 3\n"));
    }

    #[test]
    fn labels_buckets_and_the_cluster_are_written_as_they_are() {
        let mut stats = Stats {
            closed: ByLabel(vec![("client", 2), ("lost", 1)]),
            ..Stats::default()
        };
        stats.routing.buckets[0] = 2;
        stats.routing.buckets[17] = 1;
        let text = stats.exposition(Format::Prometheus);
        assert!(text.contains("wsmsgbroker_connections_closed_total{reason=\"lost\"} 1\n"));
        assert!(text.contains("wsmsgbroker_routing_seconds_bucket{le=\"0.00001\"} 2\n"));
        assert!(text.contains("wsmsgbroker_routing_seconds_bucket{le=\"10\"} 2\n"));
        assert!(text.contains("wsmsgbroker_routing_seconds_bucket{le=\"+Inf\"} 3\n"));
        assert!(!text.contains("wsmsgbroker_cluster_"));
        stats.cluster = Some(ClusterStats::default());
        assert!(
            stats
                .exposition(Format::Prometheus)
                .contains("wsmsgbroker_cluster_connected 0\n")
        );
    }
}
