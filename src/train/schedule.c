#include "train/schedule.h"

#include <math.h>

const char *schedule_name(enum schedule schedule)
{
    static const char *const names[] = {
#define SCHEDULE_NAME(name, text) text,
        SCHEDULES(SCHEDULE_NAME)
#undef SCHEDULE_NAME
    };
    return names[schedule];
}

bool schedule_find(struct str name, enum schedule *schedule)
{
    for (int i = 0; i < SCHEDULE_COUNT; i++) {
        if (str_is(name, schedule_name((enum schedule)i))) {
            *schedule = (enum schedule)i;
            return true;
        }
    }
    return false;
}

int64_t schedule_warmup_steps(double ratio, int64_t total)
{
    return (int64_t)ceil(ratio * (double)total);
}

static int64_t at_least_one(int64_t value)
{
    return value > 1 ? value : 1;
}

double schedule_factor(enum schedule schedule, int64_t k, int64_t warmup, int64_t total)
{
    double rest = (double)at_least_one(total - warmup);

    if (schedule == SCHEDULE_CONSTANT)
        return 1;
    if (k < warmup)
        return (double)k / (double)at_least_one(warmup);
    if (schedule == SCHEDULE_LINEAR)
        return fmax(0, (double)(total - k) / rest);
    if (schedule == SCHEDULE_COSINE)
        return fmax(0, 0.5 * (1 + cos(M_PI * ((double)(k - warmup) / rest))));
    return 1;
}
