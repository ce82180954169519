/* compute/cpu/tiles.h - bf16 products in tile registers (AMX): what the brick is on processors that have them.
 *
 * A tile holds 16 rows of 64 bytes. One instruction adds to 16 x 16 sums the products of 16 rows and 16 columns over 32
 * elements along k, here a block: 16 steps of the brick's words. B's panels are tiles as they lie, 16 steps by 16 of
 * their columns; rows of A as they lie are too. Element (i, j) is one chain over blocks in order, each of them two
 * chains of multiply-adds (of even and of odd elements) that are added: the same bits whatever surrounds it, so long as
 * every product of the path begins its blocks at the same k. Denormals count as zeros. */
#pragma once

#include "compute/cpu/brick.h"

/* Sums of up to BRICK_ROWS rows. */
void CPU(tiles_run)(const struct brick *brick, int count);
double CPU(tiles_peak)(int64_t repeats); /* of 4 · 16 · 16 · 32 multiply-adds */
