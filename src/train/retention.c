/* keep_checkpoints of a run that nobody but itself looks after. */
#include "train/train_int.h"

#include <stdlib.h>

struct kept {
    int64_t step, attempt;
    const char *path;
};

static int newest_first(const void *a, const void *b)
{
    const struct kept *x = a, *y = b;

    return x->step != y->step ? (x->step < y->step) - (x->step > y->step)
                              : (x->attempt < y->attempt) - (x->attempt > y->attempt);
}

static bool list_checkpoints(struct arena *arena, const char *dir, struct kept **all, size_t *count, struct err *err)
{
    int64_t *attempts;
    size_t attempt_count, name_count, cap = 0;
    char **names;

    *count = 0;
    if (!run_attempts(arena, dir, &attempts, &attempt_count, err))
        return false;
    for (size_t a = 0; a < attempt_count; a++) {
        const char *folder = path_join(arena, run_attempt_dir(arena, dir, attempts[a]), "checkpoints");

        if (!dir_exists(folder))
            continue;
        if (!dir_list(arena, folder, &names, &name_count, err))
            return false;
        for (size_t i = 0; i < name_count; i++) {
            struct kept found = {.attempt = attempts[a], .path = path_join(arena, folder, names[i])};

            if (!folder_step_parse(names[i], &found.step))
                continue;
            if (*count == cap) {
                struct kept *more = arena_new_array(arena, struct kept, cap * 2 + 16);

                for (size_t k = 0; k < cap; k++)
                    more[k] = (*all)[k];
                *all = more;
                cap = cap * 2 + 16;
            }
            (*all)[(*count)++] = found;
        }
    }
    return true;
}

bool checkpoints_prune(const char *dir, int64_t keep, struct err *err)
{
    struct arena arena = {0};
    struct kept *all = NULL;
    size_t count;
    bool ok = list_checkpoints(&arena, dir, &all, &count, err);

    if (ok && count)
        qsort(all, count, sizeof *all, newest_first);
    for (size_t i = (size_t)keep; ok && i < count; i++)
        ok = dir_remove(all[i].path, err);
    arena_deinit(&arena);
    return ok;
}
