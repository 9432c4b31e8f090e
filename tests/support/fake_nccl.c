/* Stands for NCCL under vLLM's wrapper: the calls that a broadcast takes, within one process.
 *
 * What rank 0 broadcasts waits in a queue, which one other rank takes from: rank 0 goes first.
 * fake_fail sets the result that a call answers with (0: it works), fake_hang lets a call not
 * return until that is taken back, fake_count says how often one was made.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { UNIQUE_ID, INIT, BROADCAST, ASYNC_ERROR, ABORT, CALLS };

struct comm {
    int rank;
    int aborted;
};

static volatile int results[CALLS], hanging[CALLS], counts[CALLS];

struct sent {
    size_t count;
    struct sent *next;
    char bytes[];
};

static struct sent *first, **last = &first;

void fake_fail(int call, int result) { results[call] = result; }
void fake_hang(int call, int yes) { hanging[call] = yes; }
int fake_count(int call) { return counts[call]; }

static int answer(int call) {
    counts[call]++;
    while (hanging[call]) usleep(1000);
    return results[call];
}

const char *ncclGetErrorString(int result) {
    static char text[64];
    snprintf(text, sizeof text, "fake error %d", result);
    return text;
}

int ncclGetVersion(int *version) {
    *version = 22907;
    return 0;
}

int ncclGetUniqueId(char *id) {
    memset(id, 7, 128);
    return answer(UNIQUE_ID);
}

struct id { char internal[128]; };

int ncclCommInitRank(struct comm **comm, int size, struct id id, int rank) {
    *comm = calloc(1, sizeof **comm);
    (*comm)->rank = rank;
    return answer(INIT);
}

int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, struct comm *comm,
                  void *stream) {
    int result = answer(BROADCAST);
    if (result || type != 1 || stream) return result ? result : 4;
    if (comm->rank == root) {
        struct sent *one = malloc(sizeof *one + count);
        one->count = count;
        one->next = NULL;
        memcpy(one->bytes, from, count);
        *last = one;
        last = &one->next;
        return 0;
    }
    struct sent *one = first;
    if (!one || one->count != count) return 5;
    memcpy(to, one->bytes, count);
    if (!(first = one->next)) last = &first;
    free(one);
    return 0;
}

int ncclCommGetAsyncError(struct comm *comm, int *error) {
    *error = comm->aborted ? 4 : answer(ASYNC_ERROR);
    return 0;
}

int ncclCommAbort(struct comm *comm) {
    comm->aborted = 1;
    return answer(ABORT);
}

#define UNUSED(name) int name(void) { return 3; }
UNUSED(ncclAllReduce)
UNUSED(ncclReduce)
UNUSED(ncclAllGather)
UNUSED(ncclReduceScatter)
UNUSED(ncclSend)
UNUSED(ncclRecv)
UNUSED(ncclCommDestroy)
UNUSED(ncclCommSuspend)
UNUSED(ncclCommResume)
UNUSED(ncclGroupStart)
UNUSED(ncclGroupEnd)
UNUSED(ncclCommWindowRegister)
UNUSED(ncclCommWindowDeregister)
UNUSED(ncclCommQueryProperties)
