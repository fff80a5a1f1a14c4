// Helper threads that stay between calls. A helper that waits spins for a moment before it sleeps: calls of one network
// follow each other within microseconds, and waking a sleeping virtual processor takes longer than a small layer.
#pragma once

namespace lidistill {

// Runs work(context, worker) once for each worker in [0, threads), worker 0 on the calling thread; returns when all
// are done. While the helpers are busy for another thread, worker 0 runs alone: work must not rely on the others.
void run_on_threads(int threads, void (*work)(void*, int), void* context);

}  // namespace lidistill
