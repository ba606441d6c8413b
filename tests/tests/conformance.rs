//! Every behaviour on every substrate.

use std::path::Path;
use std::sync::LazyLock;

use alknet_tests::conformance;
use alknet_tests::substrate::InMemory;

static LINKED: LazyLock<InMemory> = LazyLock::new(InMemory::linked);
conformance!(linked, LINKED);

static NATIVE: LazyLock<InMemory> = LazyLock::new(InMemory::native);
conformance!(native, NATIVE);

static PROCESS: LazyLock<InMemory> = LazyLock::new(InMemory::process);
conformance!(process, PROCESS);

static COMPONENT: LazyLock<InMemory> = LazyLock::new(|| {
    InMemory::component(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance-cache"))
});
conformance!(component, COMPONENT);
