#include "train/train_int.h"

static bool give_up(struct session *s, const struct err *why, struct err *err)
{
    tensorboard_close(&s->board);
    return run_message(&s->run, "warn", "tensorboard_stopped", s->progress.step, err,
                       "No more figures for TensorBoard are written: %s", why->text);
}

bool board_open(struct session *s, struct err *err)
{
    const char *folder = path_join(&s->arena, s->options->dir, "tensorboard");
    const int64_t step_max = s->resumed_from > 0 ? s->resumed_from : 0;
    struct err why = {0};

    if (!s->config.has_tensorboard)
        return true;
    return tensorboard_open(&s->board, &s->arena, folder, s->run.attempt, step_max, &why) || give_up(s, &why, err);
}

void board_add(struct session *s, const char *tag, double value)
{
    if (s->board.path)
        tensorboard_add(&s->board, tag, value);
}

bool board_write(struct session *s, struct err *err)
{
    struct err why = {0};

    if (!s->board.path || s->board.scalars.len == 0)
        return true;
    return tensorboard_write(&s->board, s->progress.step, &why) || give_up(s, &why, err);
}

bool board_sync(struct session *s, struct err *err)
{
    struct err why = {0};

    return !s->board.path || tensorboard_sync(&s->board, &why) || give_up(s, &why, err);
}
