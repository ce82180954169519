/* train/tensorboard.h - the run's figures as TensorBoard reads them: an event file in the run directory.
 *
 * The file is a TFRecord stream: each record is its length (u64), a checksum of that, a protobuf message (TensorFlow's
 * Event: wall time, step, scalars by tag) and a checksum of the message, all little-endian. Each attempt has a file of
 * its own, which begins with the records of the one before up to the step where it goes on; the older file is then
 * empty. So no step is there twice, whoever reads the folder, and an attempt that was overtaken writes into a file that
 * nobody sees.
 *
 * Formats: tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto, summary.proto. */
#pragma once

#include "base/err.h"
#include "base/str.h"

struct tensorboard {
    const char *path; /* NULL: closed */
    int fd;
    uint64_t bytes;        /* of the file: whole records */
    struct strbuf scalars; /* of the next record */
    struct strbuf record;
};

/* A new file in the folder, which is made; step_max is the last step that earlier files keep. The path lies in the
 * arena. */
bool tensorboard_open(struct tensorboard *board, struct arena *arena, const char *folder, int64_t attempt,
                      int64_t step_max, struct err *err);
/* A scalar of the step that is written next. */
void tensorboard_add(struct tensorboard *board, const char *tag, double value);
/* The step's record, with all that was added. A record that goes in only in part is taken back. */
bool tensorboard_write(struct tensorboard *board, int64_t step, struct err *err);
bool tensorboard_sync(struct tensorboard *board, struct err *err);
void tensorboard_close(struct tensorboard *board); /* of a zeroed struct: nothing */

/* How many bytes at the beginning of a file are whole, sound records up to that step. */
size_t tensorboard_prefix(struct str file, int64_t step_max);
