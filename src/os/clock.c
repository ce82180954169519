#include "os/clock.h"

#include <errno.h>
#include <time.h>

static struct timespec now(clockid_t id)
{
    struct timespec time;

    clock_gettime(id, &time);
    return time;
}

double clock_monotonic(void)
{
    struct timespec time = now(CLOCK_MONOTONIC);

    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

double clock_processor(void)
{
    struct timespec time = now(CLOCK_PROCESS_CPUTIME_ID);

    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

int64_t clock_monotonic_ms(void)
{
    struct timespec time = now(CLOCK_MONOTONIC);

    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

int64_t clock_unix(void)
{
    return now(CLOCK_REALTIME).tv_sec;
}

int64_t clock_unix_ms(void)
{
    struct timespec time = now(CLOCK_REALTIME);

    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

void clock_sleep_ms(int64_t ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};

    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}
