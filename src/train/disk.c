/* Bytes that a run takes on disk. */
#include "train/train_int.h"

/* Of a step in events.jsonl and for TensorBoard; of a folder's small files. */
enum { EVENT_BYTES = 1536, FOLDER_BYTES = 64 << 10 };

static int64_t greatest_common_divisor(int64_t a, int64_t b)
{
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* One behind each epoch, and each checkpoint_steps; a step that both name has one. */
static int64_t count_checkpoints(const struct session *s)
{
    int64_t epoch = s->feed.steps_per_epoch, every = s->config.checkpoint_steps, both;

    if (every == 0)
        return s->total_steps / epoch;
    both = epoch / greatest_common_divisor(epoch, every);
    return s->total_steps / epoch + s->total_steps / every - s->total_steps / every / both;
}

/* With the one being written: an older one goes when that is there. */
static int64_t kept_at_once(const struct session *s, int64_t count)
{
    int64_t keep = s->config.keep_checkpoints;

    return keep && keep + 1 < count ? keep + 1 : count;
}

static int64_t count_recovery_points(const struct session *s)
{
    int64_t every = s->config.recovery_steps ? s->config.recovery_steps : 1;
    int64_t written = s->total_steps > 0 ? (s->total_steps - 1) / every : 0;

    return written < RECOVERY_POINTS_KEPT + 1 ? written : RECOVERY_POINTS_KEPT + 1;
}

static uint64_t dataset_bytes(const struct dataset *data)
{
    uint64_t sequences = data->summary.examples * (uint64_t)example_kind_sequences(data->summary.kind);

    return data->summary.tokens * sizeof(uint32_t) + sequences * (sizeof(struct dataset_entry) + sizeof(double)) +
           FOLDER_BYTES;
}

struct disk_needs disk_needs(const struct session *s, const struct plan *plan)
{
    struct disk_needs needs = {
        .checkpoint_bytes = plan->checkpoint_bytes + FOLDER_BYTES,
        .recovery_bytes = plan->state_bytes + FOLDER_BYTES,
        .checkpoints = kept_at_once(s, count_checkpoints(s)),
        .recovery_points = count_recovery_points(s),
        .other_bytes = dataset_bytes(&s->train) + (s->has_valid ? dataset_bytes(&s->valid) : 0) +
                       (uint64_t)s->total_steps * EVENT_BYTES,
    };

    needs.total_bytes = (uint64_t)needs.checkpoints * needs.checkpoint_bytes +
                        (uint64_t)needs.recovery_points * needs.recovery_bytes + needs.other_bytes;
    return needs;
}

uint64_t disk_needs_least(const struct session *s, const struct plan *plan)
{
    return (uint64_t)kept_at_once(s, s->config.hp.n_epochs) * (plan->checkpoint_bytes + FOLDER_BYTES);
}
