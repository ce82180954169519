/* train/schedule.h - the rate of each optimizer step, as the Hugging Face Trainer's schedulers give it.
 *
 * With k counted from 0, w warm-up steps and T steps in all, the factor on the peak rate is k / max(1, w) while k < w,
 * then
 *
 *   linear                 max(0, (T - k) / max(1, T - w))
 *   cosine                 ½ (1 + cos(π (k - w) / max(1, T - w)))
 *   constant_with_warmup   1
 *   constant               1 from the first step: warm-up is ignored
 *
 * So with w = 0 the first step has the full rate and the last one 1/T of it; with w > 0 the first has rate 0. */
#pragma once

#include "base/str.h"

#define SCHEDULES(X)                                                                                                   \
    X(LINEAR, "linear")                                                                                                \
    X(COSINE, "cosine")                                                                                                \
    X(CONSTANT, "constant")                                                                                            \
    X(CONSTANT_WITH_WARMUP, "constant_with_warmup")

enum schedule {
#define SCHEDULE_ENUM(name, text) SCHEDULE_##name,
    SCHEDULES(SCHEDULE_ENUM)
#undef SCHEDULE_ENUM
    SCHEDULE_COUNT
};
const char *schedule_name(enum schedule schedule);
bool schedule_find(struct str name, enum schedule *schedule);

/* ceil(ratio · total), as the Trainer rounds. */
int64_t schedule_warmup_steps(double ratio, int64_t total);
/* Factor on the peak rate for step k, 0 <= k < total. */
double schedule_factor(enum schedule schedule, int64_t k, int64_t warmup, int64_t total);
