use flowtune_engine::kernels::Grid;

fn grid(blocks: u32, threads: u32) -> Grid {
    Grid { blocks, threads }
}

#[test]
fn every_piece_has_a_block_and_blocks_are_whole_warps() {
    assert_eq!(Grid::rows("x", 3, 1).unwrap(), grid(3, 32));
    assert_eq!(Grid::rows("x", 3, 33).unwrap(), grid(3, 64));
    assert_eq!(Grid::rows("x", 0, 6144).unwrap(), grid(0, 256));
    assert_eq!(Grid::warps("x", 9).unwrap(), grid(2, 256));
    assert_eq!(Grid::elements("x", 257).unwrap(), grid(2, 256));
    assert_eq!(Grid::tiles("x", 5, 257).unwrap(), grid(10, 256));
    assert_eq!(Grid::narrow_tiles("x", 5, 33).unwrap(), grid(10, 256));
}

#[test]
fn extents_past_2_31_are_counted_or_refused() {
    assert_eq!(Grid::elements("x", (1 << 33) + 1).unwrap(), grid((1 << 25) + 1, 256));
    assert_eq!(Grid::rows("x", i32::MAX as usize, 1 << 20).unwrap(), grid(i32::MAX as u32, 256));
    assert!(Grid::rows("x", 1 << 31, 1).is_err());
    assert!(Grid::elements("x", 1 << 40).is_err());
    assert!(Grid::tiles("x", usize::MAX, 512).is_err());
}
