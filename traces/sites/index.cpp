// Indexes the words of a text: which lines each stands on, then drops rare words, and keeps passages of what
// is left. Small, and wasteful in ways that real programs are. Recorded as index.parquet (traces/README.md).
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

struct Posting {
  int line;
  std::string context;  // The line itself: for most words longer than what a string holds in itself.
};

class Index {
 public:
  void add(const std::string& word, int line, const std::string& text) {
    std::vector<Posting>& postings = words_[word];
    Posting posting{line, text};
    postings.push_back(std::move(posting));
    counts_[word.size()] += 1;
  }

  // Words that stand on few lines only: their nodes go, and leave holes among those that stay.
  void drop_rare(std::size_t least) {
    for (auto at = words_.begin(); at != words_.end();) {
      at = at->second.size() < least ? words_.erase(at) : std::next(at);
    }
  }

  void keep_passages() {
    for (const auto& [word, postings] : words_) {
      auto passage = std::make_unique<std::string>();
      for (const Posting& posting : postings) {
        passage->append(posting.context.substr(0, 40));
        passage->append("\n");
      }
      passages_.push_back(std::move(passage));
    }
  }

  std::size_t size() const { return words_.size() + passages_.size() + counts_.size(); }

 private:
  std::map<std::string, std::vector<Posting>> words_;
  std::unordered_map<std::size_t, int> counts_;
  std::vector<std::unique_ptr<std::string>> passages_;
};

static void read_text(Index& index) {
  std::string line;
  for (int number = 1; std::getline(std::cin, line); ++number) {
    std::istringstream words(line);
    for (std::string word; words >> word;) index.add(word, number, line);
  }
}

int main() {
  Index index;
  read_text(index);
  index.drop_rare(3);
  index.keep_passages();
  std::cout << index.size() << '\n';
}
