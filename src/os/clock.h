/* os/clock.h - time. Deadlines and durations use the monotonic clock, dates the wall clock. */
#pragma once

#include <stdint.h>

double clock_monotonic(void);  /* seconds */
double clock_processor(void);  /* seconds that all threads of the process have run */
int64_t clock_monotonic_ms(void);
int64_t clock_unix(void);      /* seconds since 1970 */
int64_t clock_unix_ms(void);
void clock_sleep_ms(int64_t ms); /* restarted after signals */
