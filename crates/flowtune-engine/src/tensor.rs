//! Dense row-major tensors over candle's storage.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use candle_core::{CpuStorage, Storage, Tensor as Twin, backend::BackendStorage};

use crate::cpu::memory;
use crate::cpu::parallel;
use crate::device::{self, Bring, Device, InOrder, Kernels, OnDevice, QuantisedOnDevice};
use crate::dtype::{DType, Element, Stored, with_real, with_stored};
use crate::error::{Error, Result, shape_error};
use crate::quant::Quantised;

/// A contiguous, row-major, immutable array. Clones and reshapes share storage.
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<Held>,
    shape: Vec<usize>,
}

/// Where the elements are.
enum Data {
    Plain(Storage),
    /// In fewer bits than are computed with.
    Quantised(Quantised),
    /// On a device, contiguous.
    Device(OnDevice),
    /// [`Data::Quantised`] on a device.
    DeviceQuantised(QuantisedOnDevice),
}

/// Elements, counted among those in memory.
struct Held {
    /// Let go of before the memory is.
    #[cfg(feature = "cuda")]
    pinned: std::sync::OnceLock<Option<device::Pinned>>,
    data: Data,
    bytes: usize,
}

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Bytes of all tensors that are in memory.
pub fn live_bytes() -> usize {
    LIVE_BYTES.load(Ordering::Relaxed)
}

impl Held {
    fn new(data: Data, bytes: usize) -> Arc<Self> {
        LIVE_BYTES.fetch_add(bytes, Ordering::Relaxed);
        Arc::new(Self {
            #[cfg(feature = "cuda")]
            pinned: std::sync::OnceLock::new(),
            data,
            bytes,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        LIVE_BYTES.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A tensor that others may let go of.
#[derive(Clone)]
pub(crate) struct Resting {
    storage: Weak<Held>,
    shape: Vec<usize>,
}

impl Resting {
    /// Its own for as long as it is held.
    pub(crate) fn id(&self) -> usize {
        self.storage.as_ptr().addr()
    }

    /// Whether this is `tensor`.
    pub(crate) fn is(&self, tensor: &Tensor) -> bool {
        std::ptr::eq(self.storage.as_ptr(), Arc::as_ptr(&tensor.storage)) && self.shape == tensor.shape
    }

    /// The tensor, if it is still held.
    pub(crate) fn weight(&self) -> Option<Tensor> {
        Some(Tensor { storage: self.storage.upgrade()?, shape: self.shape.clone() })
    }
}

impl Tensor {
    /// Tensor of `data` in row-major order.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the number of elements is not the product of `shape`.
    pub fn from_vec<T: Element>(data: Vec<T>, shape: &[usize]) -> Result<Self> {
        if data.len() != shape.iter().product::<usize>() {
            return Err(shape_error("from_vec", "data", format!("for {shape:?}"), &[data.len()]));
        }
        Ok(Self::new(data, shape))
    }

    /// Tensor whose elements, little-endian as in files, `read` writes: straight to where they stay.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read_le<T: Element, E>(shape: &[usize], read: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        const { assert!(cfg!(target_endian = "little")) };
        let mut data = memory::unfilled::<T>(shape.iter().product());
        read(bytemuck::cast_slice_mut(&mut data))?;
        Ok(Self::new(data, shape))
    }

    /// As [`Tensor::from_vec`] where the caller has counted.
    pub(crate) fn new<T: Element>(data: Vec<T>, shape: &[usize]) -> Self {
        debug_assert_eq!(data.len(), shape.iter().product::<usize>());
        let bytes = size_of_val(&data[..]);
        let storage = Held::new(Data::Plain(Storage::Cpu(T::to_cpu_storage_owned(data))), bytes);
        Self { storage, shape: shape.to_vec() }
    }

    /// Tensor of one value. Zeros are written like any other: what the system zeroes by itself lies on small pages, each of
    /// which is copied, and flushed on all cores, when it is read before it is written.
    pub fn full<T: Element>(value: T, shape: &[usize]) -> Self {
        let mut data = memory::unfilled(shape.iter().product());
        data.fill(value);
        Self::new(data, shape)
    }

    /// Tensor of zeros in `dtype`.
    pub fn zeros(shape: &[usize], dtype: DType) -> Self {
        match dtype {
            DType::BF16 => Self::full(half::bf16::ZERO, shape),
            DType::F16 => Self::full(half::f16::ZERO, shape),
            DType::F32 => Self::full(0f32, shape),
            DType::F64 => Self::full(0f64, shape),
            DType::I64 => Self::full(0i64, shape),
            DType::I8 | DType::Nf4 => Self::full(0f32, shape).quantised(dtype),
        }
    }

    /// Tensor of `twin`, made contiguous, on a device with these kernels.
    pub(crate) fn of_twin(twin: Twin, kernels: Kernels) -> candle_core::Result<Self> {
        let twin = twin.contiguous()?;
        let (shape, bytes) = (twin.dims().to_vec(), twin.elem_count() * twin.dtype().size_in_bytes());
        Ok(Self { storage: Held::new(Data::Device(OnDevice { twin, kernels }), bytes), shape })
    }

    /// candle's tensor, if this one is on a device.
    pub(crate) fn on_device(&self) -> Result<Option<OnDevice>> {
        let Data::Device(OnDevice { twin, kernels }) = &self.storage.data else { return Ok(None) };
        Ok(Some(OnDevice { twin: twin.reshape(self.shape.as_slice())?, kernels: *kernels }))
    }

    /// candle's tensor of a tensor on a device that no other shares, copied first if one does. Only for tensors that no
    /// operation has seen: results may share memory with operands.
    ///
    /// # Errors
    /// When it is on the host, or there is no room.
    pub(crate) fn unshared(&mut self) -> Result<Twin> {
        let Some(OnDevice { twin, kernels }) = self.on_device()? else { return Err(Error::Device { op: "unshared" }) };
        if Arc::get_mut(&mut self.storage).is_some() {
            return Ok(twin);
        }
        *self = device::made(kernels, twin.copy())?;
        Ok(self.on_device()?.ok_or(Error::Device { op: "unshared" })?.twin)
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        match &self.storage.data {
            Data::Device(OnDevice { twin, kernels }) => Device::of(twin, *kernels),
            Data::DeviceQuantised(weight) => weight.device(),
            Data::Plain(_) | Data::Quantised(_) => Device::cpu(),
        }
    }

    /// The same elements on `device`; shares storage when they are there.
    ///
    /// # Errors
    /// When there is no room.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        self.to_device_by(device, &InOrder)
    }

    /// As [`Tensor::to_device`], in a way to be chosen.
    pub(crate) fn to_device_by(&self, device: &Device, by: &impl Bring) -> Result<Self> {
        const OP: &str = "to_device";
        if self.device() == *device {
            return Ok(self.clone());
        }
        let here = match &self.storage.data {
            Data::Plain(_) | Data::Quantised(_) => self.clone(),
            Data::Device(OnDevice { twin, .. }) => Self::from_host_of(twin, &self.shape)?,
            Data::DeviceQuantised(weight) => self.holding(Data::Quantised(weight.to_host()?)),
        };
        let Some((place, kernels)) = device.place() else { return Ok(here) };
        if let Data::Quantised(weight) = &here.storage.data {
            let there = QuantisedOnDevice::new(weight, place, kernels, by)?;
            return Ok(self.holding(Data::DeviceQuantised(there)));
        }
        let there = |data: &CpuStorage| -> candle_core::Result<Twin> {
            let shape = self.shape.as_slice();
            match data {
                CpuStorage::BF16(d) => by.bring(d, shape, place),
                CpuStorage::F16(d) => by.bring(d, shape, place),
                CpuStorage::F32(d) => by.bring(d, shape, place),
                CpuStorage::F64(d) => by.bring(d, shape, place),
                CpuStorage::I64(d) => by.bring(d, shape, place),
                other => candle_core::bail!("no tensor holds {:?}", other.dtype()),
            }
        };
        match &here.storage.data {
            Data::Plain(Storage::Cpu(data)) => device::made(kernels, there(data)),
            _ => Err(Error::Device { op: OP }),
        }
    }

    /// A tensor of this shape and as many bytes.
    fn holding(&self, data: Data) -> Self {
        Self { storage: Held::new(data, self.storage.bytes), shape: self.shape.clone() }
    }

    /// The elements of a tensor on a device, copied.
    fn from_host_of(twin: &Twin, shape: &[usize]) -> candle_core::Result<Self> {
        use candle_core::DType as C;
        let flat = twin.flatten_all()?;
        Ok(match flat.dtype() {
            C::BF16 => Self::new(flat.to_vec1::<half::bf16>()?, shape),
            C::F16 => Self::new(flat.to_vec1::<half::f16>()?, shape),
            C::F32 => Self::new(flat.to_vec1::<f32>()?, shape),
            C::F64 => Self::new(flat.to_vec1::<f64>()?, shape),
            C::I64 => Self::new(flat.to_vec1::<i64>()?, shape),
            other => candle_core::bail!("no tensor holds {other:?}"),
        })
    }

    /// To find this tensor again for as long as others hold it.
    pub(crate) fn resting(&self) -> Resting {
        Resting { storage: Arc::downgrade(&self.storage), shape: self.shape.clone() }
    }

    /// Lets a card read the memory of this tensor at any time. Where that is not granted, copies take longer.
    #[cfg(feature = "cuda")]
    pub(crate) fn pin(&self, aside: &device::Aside) {
        let bytes: Option<&[u8]> = match &self.storage.data {
            Data::Plain(Storage::Cpu(CpuStorage::BF16(d))) => Some(bytemuck::cast_slice(d)),
            Data::Plain(Storage::Cpu(CpuStorage::F32(d))) => Some(bytemuck::cast_slice(d)),
            Data::Quantised(weight) => Some(weight.codes()),
            _ => None,
        };
        self.storage.pinned.get_or_init(|| bytes.and_then(|bytes| device::Pinned::new(bytes, aside)));
    }

    /// Zeros of the dtype and on the device of this tensor.
    ///
    /// # Errors
    /// When there is no room.
    pub fn zeros_like(&self, shape: &[usize]) -> Result<Self> {
        Self::zeros_on(shape, self.dtype(), &self.device())
    }

    /// Zeros, made where they are wanted.
    ///
    /// # Errors
    /// When there is no room.
    pub(crate) fn zeros_on(shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        match device.place() {
            Some((place, kernels)) => device::made(kernels, Twin::zeros(shape, to_candle(dtype), place)),
            None => Ok(Self::zeros(shape, dtype)),
        }
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Extent of dimension `i`.
    pub fn dim(&self, i: usize) -> usize {
        self.shape[i]
    }

    /// Extent of the last dimension; 1 for a scalar.
    pub fn last_dim(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        use candle_core::DType as C;
        let dtype = match &self.storage.data {
            Data::Plain(storage) => storage.dtype(),
            Data::Device(OnDevice { twin, .. }) => twin.dtype(),
            Data::Quantised(weight) => return weight.dtype(),
            Data::DeviceQuantised(weight) => return weight.dtype(),
        };
        match dtype {
            C::BF16 => DType::BF16,
            C::F16 => DType::F16,
            C::F64 => DType::F64,
            C::I64 => DType::I64,
            _ => DType::F32,
        }
    }

    /// Bytes of storage, without scales.
    pub fn bytes(&self) -> usize {
        self.dtype().bytes(self.len())
    }

    /// The elements, without a copy.
    ///
    /// # Errors
    /// When the tensor is not of type `T` or not in host memory.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        match &self.storage.data {
            Data::Plain(Storage::Cpu(s)) => T::cpu_storage_as_slice(s).map_err(|_| Error::DType {
                op: "as_slice",
                expected: T::KIND.name(),
                got: self.dtype().name(),
            }),
            Data::Plain(_) | Data::Device(_) | Data::DeviceQuantised(_) => Err(Error::Device { op: "as_slice" }),
            Data::Quantised(_) => {
                Err(Error::DType { op: "as_slice", expected: T::KIND.name(), got: self.dtype().name() })
            }
        }
    }

    /// The elements for writing; copies first when the storage is shared.
    ///
    /// # Errors
    /// As [`Tensor::as_slice`].
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        if Arc::get_mut(&mut self.storage).is_none() {
            *self = Self::new(self.as_slice::<T>()?.to_vec(), &self.shape);
        }
        let got = self.dtype().name();
        let wrong = Error::DType { op: "as_mut_slice", expected: T::KIND.name(), got };
        match Arc::get_mut(&mut self.storage).map(|held| &mut held.data) {
            Some(Data::Plain(Storage::Cpu(s))) => T::slice_mut(s).ok_or(wrong),
            _ => Err(Error::Device { op: "as_mut_slice" }),
        }
    }

    /// The elements as a vector, converted to `f32` if they are of another floating type.
    ///
    /// # Errors
    /// When the tensor holds integers.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        let cast = self.to_device(&Device::cpu())?.to_dtype(DType::F32)?;
        Ok(cast.as_slice::<f32>()?.to_vec())
    }

    /// The only element of a floating tensor, as `f64`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when there is not exactly one element.
    pub fn to_scalar(&self) -> Result<f64> {
        if self.len() != 1 {
            return Err(shape_error("to_scalar", "tensor", "with one element", &self.shape));
        }
        let here = self.to_device(&Device::cpu())?;
        with_real!(self.dtype(), "to_scalar", T => {
            Ok(<T as candle_core::WithDType>::to_f64(here.as_slice::<T>()?[0]))
        })
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.len() {
            return Err(shape_error("reshape", "tensor", format!("for {shape:?}"), &self.shape));
        }
        Ok(Self { storage: Arc::clone(&self.storage), shape: shape.to_vec() })
    }

    /// The elements in another floating type; shares storage when the type is the same.
    ///
    /// # Errors
    /// When either type is an integer.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if self.dtype() == dtype {
            return Ok(self.clone());
        }
        if let Data::Quantised(weight) = &self.storage.data {
            return Self::new(weight.dequantised(), &self.shape).to_dtype(dtype);
        }
        if let Data::DeviceQuantised(weight) = &self.storage.data {
            if dtype.is_quantised() {
                return Err(Error::Device { op: "to_dtype" });
            }
            return device::made(weight.kernels, Ok(weight.dequantised(to_candle(dtype))?))?.reshape(&self.shape);
        }
        if dtype == DType::I64 || self.dtype() == DType::I64 {
            let (expected, got) = ("a floating type", DType::I64.name());
            return Err(Error::DType { op: "to_dtype", expected, got });
        }
        if let Some(OnDevice { twin, kernels }) = self.on_device()?.filter(|_| !dtype.is_quantised()) {
            return device::made(kernels, twin.to_dtype(to_candle(dtype)));
        }
        let Data::Plain(Storage::Cpu(s)) = &self.storage.data else {
            return Err(Error::Device { op: "to_dtype" });
        };
        if dtype.is_quantised() {
            return Ok(match self.dtype() {
                DType::F32 | DType::BF16 => self.quantised(dtype),
                _ => self.to_dtype(DType::F32)?.quantised(dtype),
            });
        }
        if let Some(cast) = self.rounded(dtype) {
            return cast;
        }
        let layout = candle_core::Layout::contiguous(self.shape.as_slice());
        let cast = s.to_dtype(&layout, to_candle(dtype))?;
        let storage = Held::new(Data::Plain(Storage::Cpu(cast)), self.len() * dtype.size());
        Ok(Self { storage, shape: self.shape.clone() })
    }

    /// float32 or bfloat16 rounded to fewer bits, row by row.
    fn quantised(&self, dtype: DType) -> Self {
        let cols = self.last_dim();
        let weight = match &self.storage.data {
            Data::Plain(Storage::Cpu(CpuStorage::BF16(data))) => Quantised::of(data, cols, dtype),
            Data::Plain(Storage::Cpu(CpuStorage::F32(data))) => Quantised::of(data, cols, dtype),
            _ => None,
        };
        let Some(weight) = weight else { return self.clone() };
        Self { storage: Held::new(Data::Quantised(weight), dtype.bytes(self.len())), shape: self.shape.clone() }
    }

    /// What a tensor in fewer bits holds, on the host.
    pub(crate) fn quantised_on_host(&self) -> Option<&Quantised> {
        match &self.storage.data {
            Data::Quantised(weight) => Some(weight),
            Data::Plain(_) | Data::Device(_) | Data::DeviceQuantised(_) => None,
        }
    }

    /// What a tensor in fewer bits holds, on a device.
    pub(crate) fn quantised_on_device(&self) -> Option<&QuantisedOnDevice> {
        match &self.storage.data {
            Data::DeviceQuantised(weight) => Some(weight),
            Data::Plain(_) | Data::Quantised(_) | Data::Device(_) => None,
        }
    }

    /// The casts of a bfloat16 computation, by all threads.
    fn rounded(&self, dtype: DType) -> Option<Result<Self>> {
        fn cast<A: Stored<Compute = f32>, B: Stored<Compute = f32>>(x: &Tensor) -> Result<Tensor> {
            const BLOCK: usize = 4096;
            let from = x.as_slice::<A>()?;
            let mut out = memory::unfilled::<B>(from.len());
            parallel::rows(
                &mut out,
                BLOCK,
                #[inline(always)]
                |i, out| {
                    let from = &from[i * BLOCK..][..out.len()];
                    out.iter_mut().zip(from).for_each(|(out, &x)| *out = B::store(x.load()));
                },
            );
            Ok(Tensor::new(out, x.shape()))
        }
        match (self.dtype(), dtype) {
            (DType::F32, DType::BF16) => Some(cast::<f32, half::bf16>(self)),
            (DType::BF16, DType::F32) => Some(cast::<half::bf16, f32>(self)),
            _ => None,
        }
    }

    /// Rows `start..start+count` of the first dimension, copied.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the range lies outside.
    pub fn rows(&self, start: usize, count: usize) -> Result<Self> {
        let total = self.shape.first().copied().unwrap_or(0);
        if start + count > total {
            let expected = format!("with at least {} rows", start + count);
            return Err(shape_error("rows", "tensor", expected, &self.shape));
        }
        let row = self.len() / total.max(1);
        let mut shape = self.shape.clone();
        shape[0] = count;
        if let Some(OnDevice { twin, kernels }) = self.on_device()? {
            return device::made(kernels, twin.narrow(0, start, count));
        }
        let range = start * row..(start + count) * row;
        match &self.storage.data {
            Data::Plain(Storage::Cpu(CpuStorage::F32(d))) => Ok(Self::new(d[range].to_vec(), &shape)),
            Data::Plain(Storage::Cpu(CpuStorage::F64(d))) => Ok(Self::new(d[range].to_vec(), &shape)),
            Data::Plain(Storage::Cpu(CpuStorage::BF16(d))) => Ok(Self::new(d[range].to_vec(), &shape)),
            Data::Plain(Storage::Cpu(CpuStorage::F16(d))) => Ok(Self::new(d[range].to_vec(), &shape)),
            Data::Plain(Storage::Cpu(CpuStorage::I64(d))) => Ok(Self::new(d[range].to_vec(), &shape)),
            _ => Err(Error::Device { op: "rows" }),
        }
    }

    /// Tensors of one shape and dtype, one after the other along the first dimension.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the trailing extents differ or the list is empty.
    pub fn cat_rows(parts: &[Self]) -> Result<Self> {
        let Some(first) = parts.first() else {
            return Err(shape_error("cat_rows", "parts", "with at least one tensor", &[0]));
        };
        let tail = &first.shape[1..];
        for part in parts {
            if part.shape.len() != first.shape.len() || part.shape[1..] != *tail {
                return Err(shape_error("cat_rows", "parts", format!("[n, {tail:?}]"), &part.shape));
            }
        }
        if let Some((on, twins)) = device::all("cat_rows", parts)? {
            return device::made(on, Twin::cat(&twins, 0));
        }
        let mut shape = first.shape.clone();
        shape[0] = parts.iter().map(|p| p.shape[0]).sum();
        if first.dtype() == DType::I64 {
            return Ok(Self::new(concat::<i64>(parts)?, &shape));
        }
        with_stored!(first.dtype(), "cat_rows", T => Ok(Self::new(concat::<T>(parts)?, &shape)))
    }
}

fn concat<T: Element>(parts: &[Tensor]) -> Result<Vec<T>> {
    let mut data = Vec::with_capacity(parts.iter().map(Tensor::len).sum());
    for part in parts {
        data.extend_from_slice(part.as_slice::<T>()?);
    }
    Ok(data)
}

fn to_candle(dtype: DType) -> candle_core::DType {
    match dtype {
        DType::BF16 => candle_core::DType::BF16,
        DType::F16 => candle_core::DType::F16,
        DType::F32 => candle_core::DType::F32,
        DType::F64 => candle_core::DType::F64,
        DType::I64 | DType::I8 | DType::Nf4 => candle_core::DType::I64,
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype().name(), self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::Tensor;

    #[test]
    fn elements_are_what_was_read() {
        // Past the size of a huge page.
        const LEN: usize = (5 << 20) / 4 + 3;
        let value = |i: usize| i as f32 * 0.5 - 7.0;
        let bytes: Vec<u8> = (0..LEN).flat_map(|i| value(i).to_le_bytes()).collect();
        let tensor = Tensor::read_le::<f32, ()>(&[LEN], |out| {
            out.copy_from_slice(&bytes);
            Ok(())
        });
        assert!(tensor.unwrap().as_slice::<f32>().unwrap().iter().enumerate().all(|(i, &x)| x == value(i)));
        assert_eq!(Tensor::read_le::<f32, _>(&[2], |_| Err("no")).unwrap_err(), "no");
    }
}
