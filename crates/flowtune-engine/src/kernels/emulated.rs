//! The kernels on the CPU: the same sources as C++, with threads that barriers and shuffles make wait
//! (`kernels/emulate`). To prove them, not to compute with.

use std::ffi::{CStr, CString, c_char, c_void};

use half::bf16;

use super::buffer::{View, ViewMut};
use super::grid::Grid;
use super::launch::{Arg, Kernel, Launcher};
use super::product::{Kind, Layout, Operand, Product};
use crate::cpu::gemm::Multiply;
use crate::cpu::mat::{Mat, MatMut, Threads, Write};
use crate::cpu::product::Term;
use crate::dtype::Stored;
use crate::error::{Error, Result};

unsafe extern "C" {
    fn flowtune_emulate(
        name: *const c_char,
        blocks: u32,
        threads: u32,
        run: u32,
        args: *const *const c_void,
        kinds: *const u32,
        count: usize,
    ) -> *const c_char;
    fn flowtune_emulated(at: usize, launches: *mut usize) -> *const c_char;
}

/// Runs kernels on the CPU, at once and on the calling thread.
#[derive(Debug, Clone, Copy)]
pub struct Emulated {
    run: u32,
}

impl Emulated {
    /// Runs all blocks.
    pub fn new() -> Self {
        Self { run: u32::MAX }
    }

    /// Runs only the last `count` blocks of each launch: for grids that would take years.
    pub fn last_blocks(count: u32) -> Self {
        Self { run: count }
    }

    /// `x` as a buffer.
    pub fn view<T>(x: &[T]) -> View<'_, T> {
        // SAFETY: there and not written while it is borrowed.
        unsafe { View::new(x.as_ptr() as u64, x.len()) }
    }

    /// `x` as a buffer to be written.
    pub fn view_mut<T: bytemuck::Pod>(x: &mut [T]) -> ViewMut<'_, T> {
        // SAFETY: nothing else uses it while it is borrowed, and any bits are a value.
        unsafe { ViewMut::new(x.as_mut_ptr() as u64, x.len()) }
    }

    /// All kernels, and how often this process has launched each.
    pub fn kernels() -> Vec<(String, usize)> {
        let kernel = |at| {
            let mut launches = 0;
            // SAFETY: a constant, or null.
            let name = unsafe { flowtune_emulated(at, &mut launches).as_ref().map(|name| CStr::from_ptr(name)) };
            name.map(|name| (name.to_string_lossy().into_owned(), launches))
        };
        (0..).map_while(kernel).collect()
    }
}

impl Default for Emulated {
    fn default() -> Self {
        Self::new()
    }
}

impl Launcher for Emulated {
    type Memory = Vec<u64>;

    unsafe fn launch(&self, kernel: Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        let name = CString::new(kernel.name.as_str()).expect("a name of ours");
        let kinds: Vec<u32> = args.iter().map(|arg| kind(arg).0).collect();
        let values: Vec<*const c_void> = args.iter().map(|arg| kind(arg).1).collect();
        // SAFETY: the caller vouches for what the arguments mean; their number and kinds are checked there.
        let wrong = unsafe {
            let (args, kinds) = (values.as_ptr(), kinds.as_ptr());
            flowtune_emulate(name.as_ptr(), grid.blocks, grid.threads, self.run, args, kinds, values.len()).as_ref()
        };
        match wrong {
            None => Ok(()),
            Some(reason) => {
                // SAFETY: a constant.
                let reason = unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned();
                Err(Error::Launch { kernel: kernel.name, reason })
            }
        }
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        let own = match (product.a.kind, product.c.kind) {
            (Kind::F32, _) => multiplied::<f32, f32>,
            (Kind::Bf16, Kind::F32) => multiplied::<bf16, f32>,
            (Kind::Bf16, Kind::Bf16) => multiplied::<bf16, bf16>,
        };
        // SAFETY: the caller's; the kinds are those of the operands.
        (0..product.groups).for_each(|group| unsafe { own(product, group) });
        Ok(())
    }

    fn scratch(&self, bytes: usize) -> Result<Vec<u64>> {
        // NaNs: what is read before it is written shows.
        Ok(vec![u64::MAX; bytes.div_ceil(size_of::<u64>())])
    }

    fn address(&self, memory: &Vec<u64>) -> u64 {
        memory.as_ptr() as u64
    }
}

/// The product of one group.
///
/// # Safety
/// As [`Launcher::product`], with matrices of these types.
unsafe fn multiplied<T: Multiply<Compute = f32>, O: Stored<Compute = f32>>(product: &Product, group: usize) {
    let Product { a, b, c, scale, add, .. } = *product;
    let start = |Layout { start, group: step, .. }: Layout| start + group * step;
    let len = |Layout { rows, cols, step, .. }: Layout| (rows - 1) * step + cols;
    let mat = |Operand { address, layout, .. }: Operand| {
        // SAFETY: the caller's.
        let data = unsafe { std::slice::from_raw_parts((address as *const T).add(start(layout)), len(layout)) };
        let mat = Mat::strided(data, layout.rows, layout.cols, layout.step);
        if layout.transposed { mat.t() } else { mat }
    };
    // SAFETY: the caller's.
    let out = unsafe { std::slice::from_raw_parts_mut((c.address as *mut O).add(start(c.layout)), len(c.layout)) };
    let out = MatMut::strided(out, c.layout.rows, c.layout.cols, c.layout.step);
    let write = if add { Write::Add } else { Write::Set };
    T::multiply(out, write, scale, &[Term { a: mat(a), b: mat(b).into() }], Threads::All);
}

/// What `Kind` of `kernels/emulate/entry.h` an argument is, and where its value lies.
fn kind(arg: &Arg) -> (u32, *const c_void) {
    match arg {
        Arg::Pointer(address) => (0, std::ptr::from_ref(address).cast()),
        Arg::U64(value) => (1, std::ptr::from_ref(value).cast()),
        Arg::U32(value) => (2, std::ptr::from_ref(value).cast()),
        Arg::F32(value) => (3, std::ptr::from_ref(value).cast()),
    }
}
