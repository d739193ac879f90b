//! The kernels on an NVIDIA card, through candle's device: PTX that the driver translates for the card.

use candle_core::cuda_backend::cudarc::cublas::{result::gemm_strided_batched_ex, sys};
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaDType, CudaStorage, WrapErr};
use candle_core::{CudaDevice, DeviceLocation, backend::BackendDevice};
use std::ffi::c_void;
use std::sync::Arc;

use super::buffer::{View, ViewMut};
use super::grid::Grid;
use super::launch::{Arg, Kernel, Launcher};
use super::product::{ColumnMajor, Kind, Operand, Product};
use crate::error::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// Queues kernels on a device's stream, in order with candle's own.
#[derive(Clone)]
pub struct Cuda {
    device: CudaDevice,
    stream: Arc<CudaStream>,
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let DeviceLocation::Cuda { gpu_id } = self.device.location() else { return f.write_str("Cuda") };
        write!(f, "Cuda({gpu_id})")
    }
}

impl Cuda {
    /// On the stream of `device`.
    pub fn new(device: &CudaDevice) -> Self {
        Self { device: device.clone(), stream: device.cuda_stream() }
    }

    /// Where `x` begins. The guard is for other streams, of which there are none.
    pub(crate) fn address_of<T>(&self, x: &CudaSlice<T>) -> u64 {
        x.device_ptr(&self.stream).0
    }

    /// Memory for `len` elements that kernels write before anything reads them.
    pub(crate) fn unfilled_storage<T: CudaDType + DeviceRepr>(&self, len: usize) -> Result<CudaStorage> {
        // The driver does not hand out nothing.
        // SAFETY: of plain numbers.
        let slice = unsafe { self.device.alloc::<T>(len.max(1)) }?;
        Ok(CudaStorage::wrap_cuda_slice(slice, self.device.clone()))
    }

    /// `x` as a buffer.
    pub fn view<'a, T>(&'a self, x: &'a CudaSlice<T>) -> View<'a, T> {
        let (address, guard) = x.device_ptr(&self.stream);
        // SAFETY: there while it is borrowed; the guard tells other streams when the launches have read it.
        unsafe { View::new(address, x.len()) }.guarded(Some(guard))
    }

    /// `x` as a buffer to be written.
    pub fn view_mut<'a, T>(&'a self, x: &'a mut CudaSlice<T>) -> ViewMut<'a, T> {
        let len = x.len();
        let (address, guard) = x.device_ptr_mut(&self.stream);
        // SAFETY: nothing else uses it while it is borrowed; the guard tells other streams when it has been written.
        unsafe { ViewMut::new(address, len) }.guarded(Some(guard))
    }
}

impl Launcher for Cuda {
    type Memory = CudaSlice<u8>;

    unsafe fn launch(&self, kernel: Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        let Some((file, ptx)) = MODULES.iter().find(|(file, _)| *file == kernel.file) else {
            return Err(Error::Launch { kernel: kernel.name, reason: format!("there is no file {}", kernel.file) });
        };
        // candle keeps loaded modules by name; its own have other names.
        let function = self.device.get_or_load_custom_func(&kernel.name, &format!("flowtune_{file}"), ptx)?;
        let mut builder = function.builder();
        for arg in args {
            match arg {
                Arg::Pointer(value) | Arg::U64(value) => builder.arg(value),
                Arg::U32(value) => builder.arg(value),
                Arg::F32(value) => builder.arg(value),
            };
        }
        let config =
            LaunchConfig { grid_dim: (grid.blocks, 1, 1), block_dim: (grid.threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the caller's.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        let ColumnMajor { transposed: [b, a], extents: [n, m, k], steps, groups, count } = ColumnMajor::of(product)?;
        let operation = |transposed| match transposed {
            true => sys::cublasOperation_t::CUBLAS_OP_T,
            false => sys::cublasOperation_t::CUBLAS_OP_N,
        };
        let kind = |operand: &Operand| match operand.kind {
            Kind::F32 => sys::cudaDataType_t::CUDA_R_32F,
            Kind::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        };
        let address = |operand: &Operand| {
            let size = match operand.kind {
                Kind::F32 => 4,
                Kind::Bf16 => 2,
            };
            operand.address + operand.layout.start as u64 * size
        };
        let (blas, scale, keep) = (self.device.cublas_handle(), product.scale, f32::from(u8::from(product.add)));
        // SAFETY: the caller's; the factors are float32, as the type of the sums says they must be.
        unsafe {
            gemm_strided_batched_ex(
                *blas.handle(),
                operation(b),
                operation(a),
                n,
                m,
                k,
                std::ptr::from_ref(&scale).cast(),
                address(&product.b) as *const c_void,
                kind(&product.b),
                steps[0],
                groups[0],
                address(&product.a) as *const c_void,
                kind(&product.a),
                steps[1],
                groups[1],
                std::ptr::from_ref(&keep).cast(),
                address(&product.c) as *mut c_void,
                kind(&product.c),
                steps[2],
                groups[2],
                count,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .w()?;
        Ok(())
    }

    fn scratch(&self, bytes: usize) -> Result<CudaSlice<u8>> {
        // The driver does not hand out nothing.
        // SAFETY: kernels write it before they read it.
        Ok(unsafe { self.device.alloc::<u8>(bytes.max(1)) }?)
    }

    fn address(&self, memory: &CudaSlice<u8>) -> u64 {
        // The guard is for other streams, which never see this memory.
        memory.device_ptr(&self.stream).0
    }
}
