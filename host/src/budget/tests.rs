use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;

fn repository(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)).unwrap()
}

#[test]
fn the_table_is_in_the_order_of_its_resources() {
    for (index, row) in TABLE.iter().enumerate() {
        assert_eq!(row.resource as usize, index, "{}", row.key);
        let hold = row.hold(Substrate::Component);
        assert!(hold.is_enforced(), "everything can be enforced on a component: {}", row.key);
    }
}

#[test]
fn the_schema_of_node_toml_is_the_table() {
    let schema: Value = serde_json::from_str(&repository("config/node.schema.json")).unwrap();
    let described = &schema["properties"]["plugin"]["items"]["properties"]["limits"];
    let expected = TABLE.iter().map(|row| {
        let mut value = match row.unit {
            Unit::Bytes => json!({ "$ref": "#/$defs/size" }),
            Unit::Milliseconds => json!({ "$ref": "#/$defs/duration" }),
            Unit::Count => json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX }),
        };
        value["description"] = row.meaning.into();
        (row.key.to_owned(), value)
    });
    assert_eq!(described["properties"], Value::Object(expected.collect()));
}

/// The table as `docs/limits.md` shows it.
fn markdown() -> String {
    let mut text =
        "| key | meaning | component | native | own process |\n|---|---|---|---|---|\n".to_owned();
    for row in &TABLE {
        let cell = |substrate| {
            let hold = row.hold(substrate);
            match row.default(substrate) {
                Some(value) => format!("{}; {}", row.unit.show(value), hold.text()),
                None => hold.text().to_owned(),
            }
        };
        text += &format!(
            "| `{}` | {} | {} | {} | {} |\n",
            row.key,
            row.meaning,
            cell(Substrate::Component),
            cell(Substrate::Native),
            cell(Substrate::Process),
        );
    }
    text += "\n| key | what happens beyond |\n|---|---|\n";
    for row in &TABLE {
        text += &format!("| `{}` | {} |\n", row.key, row.beyond);
    }
    text
}

#[test]
fn the_documentation_is_the_table() {
    let page = repository("docs/limits.md");
    for part in markdown().split("\n\n") {
        assert!(page.contains(part.trim_end()), "docs/limits.md should have:\n\n{}", markdown());
    }
}

#[test]
fn what_is_not_enforceable_limits_nothing() {
    let written = Limits::default().with(Resource::Memory, 1).with(Resource::Calls, 2);
    let native = written.in_force(Substrate::Native);
    assert_eq!((native.get(Resource::Memory), native.get(Resource::Calls)), (None, Some(2)));
    let keys: Vec<_> = written.unenforceable(Substrate::Native).map(|(row, _)| row.key).collect();
    assert_eq!(keys, ["memory"]);
    assert_eq!(written.unenforceable(Substrate::Component).count(), 0);
    assert_eq!(written.unenforceable(Substrate::Process).count(), 0);

    let component = written.in_force(Substrate::Component);
    assert_eq!(component.get(Resource::Memory), Some(1));
    assert_eq!(component.get(Resource::Instances), Some(512), "the default");
    assert_eq!(component.get(Resource::Streams), None);
    let greedy = Limits::default().with(Resource::Memory, 1 << 40);
    let memory = greedy.in_force(Substrate::Component).get(Resource::Memory);
    assert_eq!(memory, Some(MAX_INSTANCE_MEMORY));

    let meter = Meter::new("x", Substrate::Native, written);
    let memory = &meter.status()[Resource::Memory as usize];
    assert_eq!((memory.limit, memory.used, memory.enforced), (Some(1), None, false));
    assert!(memory.why.is_some());
}

#[test]
fn places_are_taken_and_given_back() {
    let meter = Meter::new("x", Substrate::Native, Limits::default().with(Resource::Calls, 2));
    let places: Vec<_> = (0..2).map(|_| meter.enter(Resource::Calls).unwrap()).collect();
    for _ in 0..3 {
        let full = meter.enter(Resource::Calls).unwrap_err();
        assert_eq!(full.to_string(), "the plugin is at its limit `calls` of 2");
    }
    let calls = &meter.status()[Resource::Calls as usize];
    assert_eq!((calls.used, calls.hits), (Some(2), 3));
    let unlimited: Vec<_> = (0..9).map(|_| meter.enter(Resource::Streams).unwrap()).collect();
    drop(places);
    meter.enter(Resource::Calls).unwrap();
    assert_eq!(meter.status()[Resource::Calls as usize].used, Some(0));
    assert_eq!(meter.status()[Resource::Streams as usize].used, Some(unlimited.len() as u64));
}

#[test]
fn a_bucket_gives_a_seconds_worth_and_then_its_rate() {
    let start = Instant::now();
    let after = |ms| start + Duration::from_millis(ms);
    let bucket = Bucket::new(1_000, start);
    assert_eq!(bucket.wait(start), None);
    bucket.spend(1_500);
    // Half a second is owed, and there is a turn's worth after it.
    assert_eq!(bucket.wait(start), Some(Duration::from_millis(510)));
    assert_eq!(bucket.wait(after(400)), Some(Duration::from_millis(110)));
    assert_eq!(bucket.wait(after(510)), None);
    // What was left over is kept, but no more than a second's worth of it.
    assert_eq!(bucket.wait(after(60_000)), None);
    bucket.spend(1_001);
    assert!(bucket.wait(after(60_000)).is_some());
}

#[test]
fn computing_is_counted_once_and_where_it_is_done() {
    fn compute(ms: u64) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(ms) {
            std::hint::spin_loop();
        }
    }
    let outer = Meter::new("outer", Substrate::Native, Limits::default());
    let inner = Meter::new("inner", Substrate::Component, Limits::default());
    outer.poll(|| {
        compute(60);
        inner.poll(|| compute(200));
    });
    let seconds = |meter: &Meter| meter.usage().cpu_seconds.unwrap();
    assert!(seconds(&inner) >= 0.2, "{inner:?}");
    assert!(seconds(&outer) >= 0.04, "{outer:?}");
    let within = seconds(&inner);
    outer.poll(|| inner.poll(|| compute(200)));
    assert!(seconds(&inner) >= within + 0.2);
    // The clocks differ by a step of the cheap one.
    assert!(seconds(&outer) < seconds(&inner), "{outer:?} {inner:?}");
}

#[test]
fn a_process_is_not_timed_from_here() {
    let meter = Meter::new("x", Substrate::Process, Limits::default());
    assert_eq!(meter.poll(|| 7), 7);
    assert_eq!(meter.usage().cpu_seconds, None);
}

#[test]
fn values_read_as_they_are_written() {
    assert_eq!(Unit::Bytes.show(64 << 20), "64 MiB");
    assert_eq!(Unit::Bytes.show(1_536), "1.5 KiB");
    assert_eq!(Unit::Bytes.show(12), "12 B");
    assert_eq!(Unit::Milliseconds.show(250), "250ms");
    assert_eq!(Unit::Milliseconds.show(1_000), "1s");
    assert_eq!(Unit::Count.show(512), "512");
}
