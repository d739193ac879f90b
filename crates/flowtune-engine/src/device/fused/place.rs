//! candle's tensors as the buffers of kernels.

use std::marker::PhantomData;

use candle_core::op::BackpropOp;
use candle_core::{DType, Storage, StorageRef, Tensor, WithDType};

use crate::error::{Error, Result};
use crate::kernels::{Launcher, View, ViewMut};

/// A launcher whose memory is that of candle's tensors.
pub(super) trait Place: Launcher {
    /// Where elements begin.
    fn base(&self, storage: &Storage) -> Option<u64>;
    /// The same, to be written.
    fn base_mut(&self, storage: &mut Storage) -> Option<u64>;
    /// Memory for elements that kernels write before anything reads them.
    fn unfilled(&self, dtype: DType, len: usize) -> Result<Storage>;
}

/// Elements of a tensor, for as long as launches are queued.
pub(super) struct Input<'a, T> {
    _storage: StorageRef<'a>,
    pub(super) view: View<'a, T>,
}

/// The elements of a contiguous tensor of `T`.
pub(super) fn input<'a, L: Place, T: WithDType>(on: &L, x: &'a Tensor) -> Result<Input<'a, T>> {
    let (storage, layout) = x.storage_and_layout();
    let offset = layout.contiguous_offsets().filter(|_| x.dtype() == T::DTYPE).map(|(start, _)| start);
    let base = offset.and_then(|offset| Some(on.base(&storage)? + (offset * size_of::<T>()) as u64));
    let address = base.ok_or(Error::Device { op: "a kernel" })?;
    // SAFETY: the storage stays while the guard does, and what is queued later in the stream is all that writes it.
    let view = unsafe { View::new(address, x.elem_count()) };
    Ok(Input { _storage: storage, view })
}

/// Memory that kernels fill, step by step.
pub(super) struct Room<T> {
    storage: Storage,
    address: u64,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: WithDType> Room<T> {
    pub(super) fn new<L: Place>(on: &L, len: usize) -> Result<Self> {
        let mut storage = on.unfilled(T::DTYPE, len)?;
        let address = on.base_mut(&mut storage).ok_or(Error::Device { op: "a kernel" })?;
        Ok(Self { storage, address, len, elements: PhantomData })
    }

    /// The first `len` elements.
    pub(super) fn first(&self, len: usize) -> View<'_, T> {
        assert!(len <= self.len);
        // SAFETY: there while `self` is, and written only by what is queued before.
        unsafe { View::new(self.address, len) }
    }

    /// As [`Room::first`], to be written.
    pub(super) fn first_mut(&mut self, len: usize) -> ViewMut<'_, T> {
        assert!(len <= self.len);
        // SAFETY: nobody else's while `self` is borrowed.
        unsafe { ViewMut::new(self.address, len) }
    }

    pub(super) fn view(&self) -> View<'_, T> {
        self.first(self.len)
    }

    pub(super) fn view_mut(&mut self) -> ViewMut<'_, T> {
        self.first_mut(self.len)
    }

    /// The tensor that it has become.
    pub(super) fn tensor(self, shape: &[usize]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), self.len);
        Tensor::from_storage(self.storage, shape, BackpropOp::none(), false)
    }
}

/// A tensor of which `write` queues the launches that fill it.
pub(super) fn filled<L: Place, T: WithDType>(
    on: &L,
    shape: &[usize],
    write: impl FnOnce(&mut ViewMut<T>) -> Result<()>,
) -> Result<Tensor> {
    let mut room = Room::new(on, shape.iter().product())?;
    write(&mut room.view_mut())?;
    Ok(room.tensor(shape))
}

/// The elements of a tensor that nothing else holds, to be changed in place.
pub(super) fn changed<L: Place, T: WithDType>(
    on: &L,
    x: &Tensor,
    write: impl FnOnce(&mut ViewMut<T>) -> Result<()>,
) -> Result<()> {
    let (storage, layout) = x.storage_and_layout();
    let start = layout.contiguous_offsets().filter(|_| x.dtype() == T::DTYPE).map(|(start, _)| start);
    let address = start.and_then(|start| Some(on.base(&storage)? + (start * size_of::<T>()) as u64));
    let address = address.ok_or(Error::Device { op: "a kernel" })?;
    // SAFETY: the caller has made sure that this is the only tensor of the storage.
    write(&mut unsafe { ViewMut::new(address, x.elem_count()) })
}

#[cfg(feature = "emulate")]
impl Place for crate::kernels::Emulated {
    fn base(&self, storage: &Storage) -> Option<u64> {
        use candle_core::CpuStorage;
        match storage {
            Storage::Cpu(CpuStorage::F32(x)) => Some(x.as_ptr() as u64),
            Storage::Cpu(CpuStorage::F64(x)) => Some(x.as_ptr() as u64),
            Storage::Cpu(CpuStorage::BF16(x)) => Some(x.as_ptr() as u64),
            Storage::Cpu(CpuStorage::U8(x)) => Some(x.as_ptr() as u64),
            _ => None,
        }
    }

    fn base_mut(&self, storage: &mut Storage) -> Option<u64> {
        use candle_core::CpuStorage;
        match storage {
            Storage::Cpu(CpuStorage::F32(x)) => Some(x.as_mut_ptr() as u64),
            Storage::Cpu(CpuStorage::F64(x)) => Some(x.as_mut_ptr() as u64),
            Storage::Cpu(CpuStorage::BF16(x)) => Some(x.as_mut_ptr() as u64),
            _ => None,
        }
    }

    fn unfilled(&self, dtype: DType, len: usize) -> Result<Storage> {
        use candle_core::CpuStorage;
        // NaNs: what no kernel writes shows.
        Ok(Storage::Cpu(match dtype {
            DType::F32 => CpuStorage::F32(vec![f32::NAN; len]),
            DType::F64 => CpuStorage::F64(vec![f64::NAN; len]),
            DType::BF16 => CpuStorage::BF16(vec![half::bf16::NAN; len]),
            _ => return Err(Error::Device { op: "a kernel" }),
        }))
    }
}

#[cfg(feature = "cuda")]
impl Place for crate::kernels::Cuda {
    fn base(&self, storage: &Storage) -> Option<u64> {
        let Storage::Cuda(storage) = storage else { return None };
        match candle_core::backend::BackendStorage::dtype(storage) {
            DType::F32 => Some(self.address_of(storage.as_cuda_slice::<f32>().ok()?)),
            DType::F64 => Some(self.address_of(storage.as_cuda_slice::<f64>().ok()?)),
            DType::BF16 => Some(self.address_of(storage.as_cuda_slice::<half::bf16>().ok()?)),
            DType::U8 => Some(self.address_of(storage.as_cuda_slice::<u8>().ok()?)),
            _ => None,
        }
    }

    fn base_mut(&self, storage: &mut Storage) -> Option<u64> {
        self.base(storage)
    }

    fn unfilled(&self, dtype: DType, len: usize) -> Result<Storage> {
        Ok(Storage::Cuda(match dtype {
            DType::F32 => self.unfilled_storage::<f32>(len)?,
            DType::F64 => self.unfilled_storage::<f64>(len)?,
            DType::BF16 => self.unfilled_storage::<half::bf16>(len)?,
            _ => return Err(Error::Device { op: "a kernel" }),
        }))
    }
}
