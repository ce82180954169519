/* job/doctor.h - holds a data folder against what must always be true of it: rows among each other, rows against what
 * lies on the disk, and the other way round. A folder that is well has no findings; one of a running server may be
 * looked at, too: what is on its way between the disk and the database is not taken for a fault, for a finding counts
 * only when a second look confirms it. */
#pragma once

#include "base/arena.h"
#include "base/err.h"

struct finding {
    const char *what, *id;
};
struct findings {
    struct finding *at;
    size_t count, cap;
};
/* with_hashes: every byte is read and held against the hashes that rows and MANIFESTs have. Findings lie in the
 * arena. */
bool doctor_examine(const char *data_dir, bool with_hashes, struct arena *arena, struct findings *findings,
                    struct err *err);
