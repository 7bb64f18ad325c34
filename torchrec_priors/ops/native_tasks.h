// Work in tasks: threads take one after another, so a thread that has lost its core holds up only its own task.

#pragma once

#include <omp.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace {

// Calls each(worker, task) for all tasks; every thread has a worker from make(). Returns false if memory was lacking.
template <class Make, class Each>
bool take_tasks(int64_t threads, int64_t tasks, Make make, Each each) {
  std::atomic<bool> failed{false};
#pragma omp parallel num_threads(threads)
  {
    decltype(make()) worker;
    try {
      worker = make();
    } catch (const std::bad_alloc&) {
      failed = true;
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; task++) {
      if (failed) continue;
      try {
        each(*worker, task);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    }
  }
  return !failed;
}

// Sums of tasks that end in any order, added in the order of the tasks: the bits do not depend on the threads.

template <class Add>  // add(task, sums) adds the sums of a task to the result
class InOrder {
 public:
  InOrder(int64_t tasks, Add add) : add_(add), sums_(tasks), ended_(tasks) {}

  // Returns memory for the sums of a task, filled with zeros.
  std::vector<float> begin(int64_t size) {
    std::vector<float> sums;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!spare_.empty()) sums = std::move(spare_.back()), spare_.pop_back();
    }
    sums.assign(size, 0.0f);
    return sums;
  }

  // Adds the sums of a task, once all tasks before it have ended.
  void end(int64_t task, std::vector<float> sums) {
    const std::lock_guard<std::mutex> lock(mutex_);
    sums_[task] = std::move(sums), ended_[task] = true;
    for (; next_ < ended_.size() && ended_[next_]; next_++) {
      add_(static_cast<int64_t>(next_), sums_[next_].data());
      spare_.push_back(std::move(sums_[next_]));
    }
  }

 private:
  Add add_;
  std::vector<std::vector<float>> sums_, spare_;
  std::vector<bool> ended_;
  size_t next_ = 0;
  std::mutex mutex_;
};

}  // namespace
