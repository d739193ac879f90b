//! Which pages of a region are in use.

use std::ops::Range;

/// What a page is to the region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    /// Free, without memory.
    Empty,
    /// Free; still has the memory of the block that was there.
    Kept,
    Used,
}

/// The pages of a region, by number. Blocks are where they first fit, which keeps them together at its beginning.
pub(super) struct Pages {
    /// Up to the last that was ever used.
    pages: Vec<Page>,
    limit: usize,
    used: usize,
    kept: usize,
    most_used: usize,
}

impl Pages {
    /// `limit` empty pages.
    pub(super) const fn new(limit: usize) -> Self {
        Self { pages: Vec::new(), limit, used: 0, kept: 0, most_used: 0 }
    }

    /// The first of `count` adjacent pages, in use from now on; `None` where there are none.
    pub(super) fn take(&mut self, count: usize) -> Option<usize> {
        let first = self.first_fit(count);
        let end = first.checked_add(count).filter(|&end| end <= self.limit)?;
        if end > self.pages.len() {
            self.pages.resize(end, Page::Empty);
        }
        let block = &mut self.pages[first..end];
        self.kept -= block.iter().filter(|page| **page == Page::Kept).count();
        block.fill(Page::Used);
        self.used += count;
        self.most_used = self.most_used.max(self.used);
        Some(first)
    }

    fn first_fit(&self, count: usize) -> usize {
        let mut free_from = 0;
        for (i, page) in self.pages.iter().enumerate() {
            if *page == Page::Used {
                free_from = i + 1;
            } else if i + 1 - free_from == count {
                break;
            }
        }
        free_from
    }

    /// Pages that [`Pages::take`] gave are free again; they keep their memory.
    pub(super) fn free(&mut self, block: Range<usize>) {
        let count = block.len();
        self.pages[block].fill(Page::Kept);
        self.used -= count;
        self.kept += count;
    }

    /// Adjacent pages that shall give up their memory, which they are taken to do: the last ones, where the next block is
    /// least likely. `None` when no more is kept than may be: what leaves the region as large as it once had to be, and
    /// twice what is in use.
    pub(super) fn surplus(&mut self) -> Option<Range<usize>> {
        let may_be_kept = (self.most_used - self.used).min(self.used);
        let count = self.kept.checked_sub(may_be_kept).filter(|&count| count > 0)?;
        let end = self.pages.iter().rposition(|page| *page == Page::Kept)? + 1;
        let kept = self.pages[..end].iter().rev().take(count).take_while(|page| **page == Page::Kept).count();
        self.pages[end - kept..end].fill(Page::Empty);
        self.kept -= kept;
        Some(end - kept..end)
    }
}

#[cfg(test)]
mod tests {
    use super::Pages;

    /// First and last of what is given up.
    fn surplus(pages: &mut Pages) -> Vec<(usize, usize)> {
        std::iter::from_fn(|| pages.surplus()).map(|pages| (pages.start, pages.end - 1)).collect()
    }

    #[test]
    fn blocks_are_where_they_first_fit() {
        let mut pages = Pages::new(10);
        assert_eq!([4, 2, 3].map(|count| pages.take(count)), [Some(0), Some(4), Some(6)]);
        pages.free(0..4);
        pages.free(4..6);
        assert_eq!(pages.take(5), Some(0));
        assert_eq!(pages.take(2), None);
        assert_eq!(pages.take(1), Some(5));
        assert_eq!(pages.take(1), Some(9));
        assert_eq!(pages.take(1), None);
        pages.free(6..9);
        assert_eq!(pages.take(4), None);
        assert_eq!(pages.take(3), Some(6));
        assert_eq!(pages.take(usize::MAX), None);
    }

    #[test]
    fn no_more_is_kept_than_was_once_in_use_and_than_is() {
        let mut pages = Pages::new(100);
        pages.take(6);
        pages.take(4);
        pages.free(6..10);
        // Ten were in use, six are: four may wait.
        assert!(surplus(&mut pages).is_empty());
        // Five do not fit there, one more is empty.
        assert_eq!(pages.take(5), Some(6));
        assert!(surplus(&mut pages).is_empty());
        pages.take(2);
        pages.free(0..6);
        // Seven are in use.
        assert!(surplus(&mut pages).is_empty());
        pages.free(6..11);
        // Of eleven, two are needed.
        assert_eq!(surplus(&mut pages), [(2, 10)]);
        assert_eq!(pages.take(2), Some(0));
        pages.free(0..2);
        pages.free(11..13);
        assert_eq!(surplus(&mut pages), [(11, 12), (0, 1)]);
    }

    #[test]
    fn what_is_taken_anew_makes_room_for_itself() {
        let mut pages = Pages::new(100);
        assert_eq!([3, 1, 3, 1].map(|count| pages.take(count)), [Some(0), Some(3), Some(4), Some(7)]);
        pages.free(0..3);
        pages.free(4..7);
        // Eight were in use, two are.
        assert_eq!(surplus(&mut pages), [(4, 6), (2, 2)]);
        assert_eq!(pages.take(4), Some(8));
        assert!(surplus(&mut pages).is_empty());
        assert_eq!(pages.take(4), Some(12));
        assert_eq!(surplus(&mut pages), [(0, 1)]);
    }
}
