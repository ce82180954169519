/* tests/unit/test.h - cmocka with its includes, and where shared test data may lie.
 *
 * Tests that need data from outside the project ask shared_path(); without the folder they print why and skip. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/err.h"

/* Path of shared/data/<name>, or NULL (with a line saying so) when it is not on this machine. ATTUNE_SHARED names
 * the folder; by default it is looked for beside the checkout. */
static inline const char *shared_path(const char *name)
{
    static char path[4][4096];
    static int turn;
    const char *root = getenv("ATTUNE_SHARED");
    struct stat info;

    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/data/%s", root ? root : "../shared", name);
    if (stat(path[turn], &info) == 0)
        return path[turn];
    print_message("skipped: %s is not here (set ATTUNE_SHARED to the folder that holds data/)\n", path[turn]);
    return NULL;
}

#define assert_ok(condition, err)                                                                                      \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            fail_msg("%s: %s", #condition, (err).text);                                                                \
    } while (0)
