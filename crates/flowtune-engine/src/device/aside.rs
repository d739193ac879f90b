//! Copies to a card beside what it computes: from memory that does not move, in a stream of their own.

use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, DevicePtr, result, sys};
use candle_core::cuda_backend::{CudaStorage, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{Device as Place, Result as Composed, Storage, Tensor as Twin};

use super::Device;
use super::bring::{Bring, InOrder, Numbers};
use crate::error::Result;

/// The stream of copies, and that of computation.
pub(crate) struct Aside {
    copies: Arc<CudaStream>,
    main: Arc<CudaStream>,
}

impl Aside {
    /// Beside the computation of `device`, if it is a card.
    pub(super) fn beside(device: &Device) -> Result<Option<Self>> {
        let Some((Place::Cuda(card), _)) = device.place() else { return Ok(None) };
        let main = card.cuda_stream();
        let copies = main.context().new_stream().w()?;
        Ok(Some(Self { copies, main }))
    }

    /// When all copies that are queued now have ended.
    pub(super) fn arrival(&self) -> Result<Arrival> {
        Ok(Arrival { event: self.copies.record_event(None).w()?, main: Arc::clone(&self.main) })
    }
}

impl Bring for Aside {
    fn bring<T: Numbers>(&self, x: &[T], shape: &[usize], place: &Place) -> Composed<Twin> {
        let Place::Cuda(card) = place else { return InOrder.bring(x, shape, place) };
        // The driver does not hand out nothing.
        // SAFETY: of plain numbers, which are all written before anything reads them.
        let slice = unsafe { card.alloc::<T>(x.len().max(1)) }?;
        // What has just become free may still be read by what is queued.
        let free = self.main.record_event(None).w()?;
        self.copies.wait(&free).w()?;
        let address = slice.device_ptr(&self.copies).0;
        // SAFETY: as long as x; who reads it waits for the arrival, and memory is given back after that.
        unsafe { result::memcpy_htod_async(address, x, self.copies.cu_stream()) }.w()?;
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, card.clone()));
        Ok(Twin::from_storage(storage, shape, BackpropOp::none(), false))
    }
}

/// The end of copies.
pub(super) struct Arrival {
    event: CudaEvent,
    main: Arc<CudaStream>,
}

impl Arrival {
    /// Lets what is queued from now on wait.
    pub(super) fn waited_for(&self) -> Result<()> {
        Ok(self.main.wait(&self.event).w()?)
    }
}

/// Memory of the host that the card may read at any time: copies from other memory go through a buffer of the driver, and the
/// caller waits.
pub(crate) struct Pinned {
    address: usize,
    copies: Arc<CudaStream>,
}

impl Pinned {
    /// Pins the bytes, which must stay where they are for as long as this; none where the system does not let it.
    pub(crate) fn new(bytes: &[u8], aside: &Aside) -> Option<Self> {
        aside.main.context().bind_to_thread().ok()?;
        let address = bytes.as_ptr() as usize;
        // SAFETY: bytes of ours; the driver only locks their pages.
        let locked = unsafe { sys::cuMemHostRegister_v2(address as *mut c_void, bytes.len(), 0) }.result();
        locked.ok().map(|()| Self { address, copies: Arc::clone(&aside.copies) })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Copies may still read it. There is nobody to tell of a failure.
        self.copies.synchronize().unwrap_or_default();
        // SAFETY: registered in `new`, once.
        unsafe { sys::cuMemHostUnregister(self.address as *mut c_void) }.result().unwrap_or_default();
    }
}
