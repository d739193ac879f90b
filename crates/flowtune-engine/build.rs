//! Compiles the CUDA kernels: with feature `emulate` as C++ for the CPU, with feature `cuda` to PTX. Without either, nothing.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "emulate")]
    emulated(&sources());
    if cfg!(feature = "cuda") {
        ptx(&sources());
    }
}

/// The kernel files, in the order of their names.
fn sources() -> Vec<PathBuf> {
    println!("cargo::rerun-if-changed=kernels");
    let files = std::fs::read_dir("kernels").expect("the folder kernels").map(|entry| entry.expect("a file").path());
    let mut sources: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "cu")).collect();
    sources.sort();
    sources
}

fn stem(source: &Path) -> &str {
    source.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8")
}

fn out(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo")).join(name)
}

fn write(name: &str, text: &str) -> PathBuf {
    let path = out(name);
    std::fs::write(&path, text).expect("cargo's own folder can be written");
    path
}

/// All kernels in one file, each source in a namespace of its own, with the emulator.
#[cfg(feature = "emulate")]
fn emulated(sources: &[PathBuf]) {
    let mut text = String::from("#include \"emulate/runtime.h\"\n#include \"shared.cuh\"\n");
    for source in sources {
        let name = stem(source);
        text += &format!("namespace kernels_{name} {{\n#include \"{name}.cu\"\n}}\n");
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file(write("kernels.cpp", &text))
        .include("kernels")
        .define("FLOWTUNE_EMULATE", None)
        .opt_level(1)
        // As written: what nvcc fuses changes the last bit only.
        .flag_if_supported("-ffp-contract=off")
        .flag("-Wno-unknown-pragmas")
        // An index that loses bits on its way must not compile.
        .flag("-Wconversion")
        .flag("-Werror=conversion")
        // Overflow, misalignment and the like end the program; the trap needs no library.
        .flag_if_supported("-fsanitize=undefined")
        .flag_if_supported("-fsanitize-undefined-trap-on-error")
        .compile("flowtune_kernels");
}

/// Each kernel file as PTX, and a table of them as Rust. The driver translates PTX of compute capability 8.0 for every
/// card since Ampere.
fn ptx(sources: &[PathBuf]) {
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let nvcc = std::env::var_os("CUDA_HOME").map_or("nvcc".into(), |home| PathBuf::from(home).join("bin").join("nvcc"));
    let mut table = String::from("const MODULES: &[(&str, &str)] = &[\n");
    for source in sources {
        let output = out(&format!("{}.ptx", stem(source)));
        let run = std::process::Command::new(&nvcc)
            .args(["-ptx", "-std=c++17", "-O3", "-arch=compute_80", "-o"])
            .args([&output, source])
            .status()
            .unwrap_or_else(|e| panic!("{}: {e}; feature `cuda` needs nvcc (docs/cuda.md)", nvcc.display()));
        assert!(run.success(), "nvcc did not compile {}", source.display());
        table += &format!("    ({:?}, include_str!({output:?})),\n", stem(source));
    }
    write("modules.rs", &(table + "];\n"));
}
