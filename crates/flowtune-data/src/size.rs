//! Sizes that images are trained at.

/// Sides of an image must be a multiple of this: 8 of the VAE times 2 of the patches.
pub(crate) const MULTIPLE: usize = 16;

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size {
    /// Width.
    pub width: usize,
    /// Height.
    pub height: usize,
}

impl Size {
    fn square(side: usize) -> Self {
        Self { width: side, height: side }
    }

    fn pixels(self) -> usize {
        self.width * self.height
    }

    /// See [`bucket_for`].
    pub(crate) fn bucket(self, resolution: usize) -> Self {
        bucket_for(self.width, self.height, resolution)
    }

    /// Width over height.
    pub(crate) fn aspect(self) -> f64 {
        self.width.max(1) as f64 / self.height.max(1) as f64
    }
}

/// The size in multiples of 16 that is nearest in aspect to `width`×`height` and has about `resolution`² pixels,
/// never more; sides are at most twice `resolution`.
pub fn bucket_for(width: usize, height: usize, resolution: usize) -> Size {
    let aspect = Size { width, height }.aspect();
    let budget = resolution * resolution;
    let candidates = (MULTIPLE..=2 * resolution).step_by(MULTIPLE).filter_map(|width| {
        let height = (budget / width / MULTIPLE * MULTIPLE).min(2 * resolution);
        (height >= MULTIPLE).then_some(Size { width, height })
    });
    let off = |size: &Size| (size.aspect() / aspect).ln().abs();
    let square = Size::square(resolution);
    candidates.min_by(|a, b| off(a).total_cmp(&off(b))).filter(|best| off(best) < off(&square)).unwrap_or(square)
}

/// At which sizes images are trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizing {
    /// Sides of squares, in pixels, at least one: each image is used at each that it has the pixels for, and at the
    /// smallest in any case.
    pub resolutions: Vec<usize>,
    /// Whether images keep about their aspect, with the pixels of the square; they are cut to squares if not.
    pub buckets: bool,
}

impl Sizing {
    /// Sizes of an image that is `source` pixels large, the smallest resolution's first.
    pub(crate) fn of(&self, source: Size) -> Vec<Size> {
        self.resolutions_of(source).into_iter().map(|side| self.at(source, side)).collect()
    }

    /// The resolutions that such an image is used at, smallest first.
    pub(crate) fn resolutions_of(&self, source: Size) -> Vec<usize> {
        let mut sides = self.resolutions.clone();
        sides.sort_unstable();
        sides.dedup();
        // Scaling up shows the model no detail that the smaller size does not.
        let fits = |i: usize, side: usize| i == 0 || self.at(source, side).pixels() <= source.pixels();
        sides.iter().enumerate().filter(|&(i, &side)| fits(i, side)).map(|(_, &side)| side).collect()
    }

    fn at(&self, source: Size, side: usize) -> Size {
        if self.buckets { source.bucket(side) } else { Size::square(side) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: usize, height: usize) -> Size {
        Size { width, height }
    }

    #[test]
    fn buckets_keep_the_aspect_within_the_pixels() {
        assert_eq!(bucket_for(100, 100, 512), size(512, 512));
        assert_eq!(bucket_for(3000, 3010, 512), size(512, 512));
        assert_eq!(bucket_for(10_000, 10, 512).width, 1024);
        for (width, height) in [(1920, 1080), (1080, 1920), (800, 600), (1000, 300)] {
            let bucket = bucket_for(width, height, 512);
            assert!(bucket.width.is_multiple_of(16) && bucket.height.is_multiple_of(16));
            assert!(bucket.pixels() <= 512 * 512 && bucket.pixels() > 512 * 512 * 8 / 10);
            let off = bucket.aspect() / (width as f64 / height as f64);
            assert!((0.93..1.07).contains(&off), "{width}×{height}: {bucket:?}");
        }
    }

    #[test]
    fn images_are_used_at_every_resolution_that_they_have_the_pixels_for() {
        let sizing = |buckets| Sizing { resolutions: vec![1024, 256, 512, 256], buckets };
        assert_eq!(sizing(false).of(size(3000, 2000)), [256, 512, 1024].map(Size::square));
        assert_eq!(sizing(false).of(size(600, 600)), [256, 512].map(Size::square));
        assert_eq!(sizing(false).of(size(9, 9)), [Size::square(256)]);
        assert_eq!(sizing(true).of(size(1200, 600)), [size(352, 176), size(720, 352)]);
    }
}
