//! The body of the manifest's fuzz target; `cargo fuzz` and a smoke test drive the
//! same.

use crate::manifest::Manifest;

/// No manifest panics, whatever a plugin says it is, and one that was read reads
/// the same once written.
pub fn fuzz_manifest(data: &[u8]) {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(data) else { return };
    for problem in manifest.problems() {
        // Their texts quote the manifest, and must bear any of it.
        assert!(!problem.to_string().is_empty());
    }
    let written = match serde_json::to_vec(&manifest) {
        Ok(written) => written,
        Err(error) => panic!("a manifest that was read cannot be written: {error}"),
    };
    match serde_json::from_slice::<Manifest>(&written) {
        Ok(again) => assert_eq!(again, manifest),
        Err(error) => panic!("what was written does not read back: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that a manifest can hold.
    fn seed() -> Vec<u8> {
        let capability = crate::CapabilityRequest {
            name: "key".into(),
            kind: crate::CapabilityKind::Bytes,
            description: "signs".into(),
            optional: true,
        };
        let manifest = Manifest::new("echo", "0.1.0")
            .description("\u{e9}choes")
            .alpn("alknet/echo")
            .gateway()
            .config(serde_json::json!({ "type": "object", "additionalProperties": false }))
            .capability(capability)
            .operation(
                crate::OperationSpec::query("echo/say")
                    .description("says")
                    .input(serde_json::json!({ "type": "object", "required": ["text"] }))
                    .error("REFUSED", "when it is"),
            )
            .operation(crate::OperationSpec::subscription("echo/all"));
        assert!(manifest.problems().is_empty(), "{:?}", manifest.problems());
        serde_json::to_vec(&manifest).unwrap()
    }

    #[test]
    fn mutated_manifests_neither_panic_nor_change_when_written() {
        let seed = seed();
        assert!(serde_json::from_slice::<Manifest>(&seed).is_ok());
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize
        };
        let mut read = 0;
        for _ in 0..20_000 {
            let mut data = seed.clone();
            for _ in 0..=next() % 3 {
                let at = next() % data.len();
                match next() % 4 {
                    0 => data[at] = seed[next() % seed.len()],
                    1 => data[at] = next() as u8,
                    2 => drop(data.remove(at)),
                    _ => data.insert(at, seed[next() % seed.len()]),
                }
            }
            read += usize::from(serde_json::from_slice::<Manifest>(&data).is_ok());
            fuzz_manifest(&data);
        }
        assert!(read > 1_000, "hardly a mutation was a manifest: {read}");
    }
}
