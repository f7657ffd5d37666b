/**
 * Everything the page says, in Chinese and in English. An entry may be a function of the values that stand in it.
 */

const ZH = {
  "nav.label": "视图", "nav.skip": "跳到正文", "nav.search": "搜索", "nav.why": "缘由", "nav.corpus": "语料", "nav.ask": "问答", "nav.state": "状态",
  "tools.key": "密钥", "theme.auto": "外观：跟随系统", "theme.light": "外观：浅色", "theme.dark": "外观：深色",
  cancel: "取消", save: "保存", close: "关闭", undo: "撤销", comma: "，", space: "",
  "banner.loading": "服务正在加载模型，或正在关闭；就绪后页面会自动继续。", "banner.away": "连不上服务。它可能正在重启，页面会不断重试。",
  "key.title": "需要密钥", "key.needed": "这个服务只回答带密钥的请求。", "key.change": "换一把密钥，例如可写的密钥。", "key.key": "密钥", "key.where": "只保存在这个标签页里，关闭即忘。", "key.use": "使用",

  "search.title": "哪些文本与这句话意思相同？", "search.placeholder": "输入一句话，边输入边搜索", "search.query": "查询", "search.collection": "语料库", "search.results": "结果",
  "search.told": ({ n }) => `${n} 条结果`, "search.failed": "没能搜索", "search.try": "试试看：", "search.emptyCollection": "这个语料库还是空的。",
  "search.samples": ["信用卡额度太低怎么办", "密码忘了", "东西不想要了能退吗", "成绩在哪看", "快递一直没到"],
  "search.none.title": "还没有语料库", "search.none.text": "拖入一个文件，就有东西可搜了。", "search.none.link": "去语料页",
  "search.rerank": "重排", "search.weight": "输运权重", "search.weight.hint": "0：只看余弦（与 BM25）；1：只看输运距离。双击恢复模型的默认值。", "search.retrieve": "候选来自", "search.candidates": "候选数", "search.scope": "范围",
  "search.curl": "复制 curl", "search.more": "更多结果", "search.truncated": "文本比模型能读的长，超出的部分没有参与比较。", "search.nothing.title": "没有结果", "search.nothing.text": "这个语料库里没有文本。", "search.nothing.filter": "没有文档满足过滤条件，放宽一些试试。",
  "rerank.wrd": "WRD", "rerank.wmd": "WMD", "rerank.none": "不重排",
  "rerank.wrd.hint": "词旋转距离：质量按词向量的长度，代价是 1 − 余弦", "rerank.wmd.hint": "词移距离：每个词质量相同，代价是欧氏距离", "rerank.none.hint": "按第一阶段的分数排序",
  "scope.pool": "候选", "scope.corpus": "全库", "scope.pool.hint": "在候选之中按输运重排", "scope.corpus.hint": "整个语料库里真正的前几名",
  "retrieve.usual": ({ usual }) => `默认（${usual}）`, "retrieve.vector": "向量", "retrieve.lexical": "字面", "retrieve.hybrid": "混合",
  "proof.exact": "已证明", "proof.open": "未证明",
  "proof.pool": ({ solved, all, pruned, k }) => `${all} 个候选只解了 ${solved} 个输运问题；其余 ${pruned} 个的下界表明它们进不了前 ${k}。`,
  "proof.corpus": ({ solved, all, pruned, k }) => `全库 ${all} 条只解了 ${solved} 个输运问题；其余 ${pruned} 条的下界表明它们进不了前 ${k}。`,
  "proof.pool.all": ({ all }) => `${all} 个候选的输运问题全部解出。`, "proof.corpus.all": ({ all }) => `全库 ${all} 条的输运问题全部解出。`,
  "proof.none": "没有重排，也就没有什么要证明：按第一阶段的分数排序。", "proof.partial": "时间到了，有的候选还没有比完：排名可能不是最终的。",
  "took.queue": "排队", "took.encode": "编码", "took.retrieve": "召回", "took.rerank": "重排", "took.cache": "缓存", "took.generate": "生成", "took.lookup": "查找",
  "hit.why": "为什么", "hit.open": "单独打开", "hit.cosine": "余弦", "hit.score": "得分", "hit.id": "文档编号", "hit.notRun": "这一步没有做",
  "hit.cosine.hint": "两个句向量的夹角余弦，越高越像", "hit.transport.hint": "输运距离，越低越像；条越长表示越近", "hit.score.hint": "排序所用的分数，越高越好", "hit.bm25.hint": "字面得分：共有的字与词",
  "move.new": "新", "move.new.told": ({ after, most }) => `重排前不在前 ${most} 个候选之内，现在第 ${after}`, "move.same.told": ({ after }) => `重排前后都是第 ${after}`, "move.up.told": ({ before, after }) => `重排前第 ${before}，现在第 ${after}`, "move.down.told": ({ before, after }) => `重排前第 ${before}，现在第 ${after}`,

  "filter.title": "按元数据过滤", "filter.json": "过滤条件（JSON）", "filter.wrong": "这不是一个 JSON 对象，例如 {\"year\": {\"gte\": 2020}}。", "filter.nothing": "这些文档没有适合挑选的元数据。", "filter.clear": "清除过滤", "filter.gte": "至少", "filter.lte": "至多",

  "why.title": "这两句话为什么像？", "why.lead": "把一句话的词义搬成另一句，要搬多少、多远？带子的宽度是搬动的质量，颜色是代价。", "why.a": "一句话", "why.b": "另一句话", "why.swap": "交换两句", "why.measure": "度量", "why.result": "结果", "why.try": "例子", "why.empty": "写下两句话，就会看到它们怎样对应。", "why.computing": "正在解输运问题……",
  "why.examples": [["信用卡额度太低怎么办", "信用卡怎么提高额度？"], ["花呗怎么还款", "花呗如何还钱"], ["快递一直没到", "图书馆几点开门"]],
  "plan.label": "输运方案。用方向键逐词查看。", "plan.kind": "图的样子", "plan.ribbons": "带状", "plan.heat": "热图", "plan.table": "表格", "plan.copySvg": "复制 SVG", "plan.copyPng": "复制 PNG", "plan.nothing": "没有可画的：至少一句话里没有带质量的词。",
  "plan.caption": "指向一条带子或一个词，看它搬了多少、代价多大。", "plan.caption.table": "按各自占总代价的多少排列。",
  "plan.cheap": "代价", "plan.dear": "",
  "plan.move": ({ from, to, mass, cost }) => `${from} → ${to}：质量 ${mass}，代价 ${cost}`,
  "plan.goes": ({ name, mass, parts }) => `${name}（质量 ${mass}）搬到：${parts}`, "plan.comes": ({ name, mass, parts }) => `${name}（质量 ${mass}）来自：${parts}`, "plan.idle": ({ name }) => `${name}：没有质量`,
  "plan.free": ({ share }) => `${share}% 的质量几乎原地不动。`, "plan.paid": ({ measure, distance, moves }) => `距离 ${measure} ${distance} 主要来自 ${moves}。`, "plan.equal": "几乎没有代价。",
  "plan.column.from": "从", "plan.column.to": "到", "plan.column.mass": "质量", "plan.column.cost": "代价", "plan.column.share": "占距离",
  "copied.curl": "已复制 curl 命令。", "copied.svg": "已复制 SVG。", "copied.png": "已复制 PNG。", "copied.refused": "浏览器不允许这个页面写剪贴板。", "copied.saved": ({ name }) => `剪贴板不可用，已存为 ${name}。`,

  "corpus.title": "语料", "corpus.collections": "语料库", "corpus.new": "新建语料库", "corpus.name": "名称", "corpus.name.hint": "小写字母、数字、- 和 _，至多 64 个。", "corpus.create": "新建",
  "corpus.count": ({ n, size }) => `${n} 条 · ${size}`, "corpus.index": ({ index, dim }) => `${index} · ${dim} 维`, "corpus.nothing": "还没有语料库。先新建一个，再拖入文件或逐条添加。",
  "corpus.delete": "删除语料库", "corpus.delete.title": ({ name }) => `删除 ${name}？`, "corpus.delete.text": ({ n }) => `其中的 ${n} 条文档会一起删除，不能撤销。`,
  "import.drop": "把文件拖到这里，或点按选择", "import.formats": "jsonl、csv、tsv、txt，可用 gz、xz、zst 压缩；csv 需要名为 text 的列",
  "import.unknown": ({ name }) => `${name} 的格式不认识；请用 jsonl、csv、tsv 或 txt（可压缩）。`, "import.progress": ({ name }) => `${name} 的进度`, "import.sending": ({ share }) => `正在上传 ${share}%`, "import.cancel": "取消",
  "import.running": ({ done, total }) => `已索引 ${done}，约共 ${total}`, "import.done": ({ done }) => `完成，索引了 ${done} 条`, "import.failed": ({ done }) => `失败，此前索引了 ${done} 条`, "import.cancelled": ({ done }) => `已取消，此前索引了 ${done} 条`,
  "import.rate": ({ rate }) => `每秒 ${rate} 条`, "import.eta": ({ eta }) => `还要 ${eta}`, "import.rejects": ({ failed }) => `${failed} 行不能用`, "import.truncated": ({ n }) => `${n} 条太长`, "import.shown": ({ shown, failed }) => `不能用的行（${failed} 行中的 ${shown} 行）`, "import.line": ({ line }) => `第 ${line} 行`,
  "documents.title": "文档", "documents.add": "添加文档", "documents.from": "从编号开始", "documents.nothing": "这里没有文档。", "documents.back": "上一页", "documents.next": "下一页", "documents.similar": "相似问法", "documents.search": "以此搜索", "documents.edit": "编辑", "documents.delete": "删除",
  "documents.deleted": ({ id }) => `已删除 ${id}。`, "documents.truncated": ({ n }) => `${n} 条比模型能读的长，只索引了开头。`, "documents.edit.title": "编辑文档", "documents.add.title": "添加文档", "documents.id": "编号", "documents.id.placeholder": "自动生成", "documents.id.hint": "留空则由服务生成；已有的编号会被覆盖。", "documents.text": "文本", "documents.metadata": "元数据", "documents.metadata.hint": "一个 JSON 对象，可以按它过滤。", "documents.metadata.wrong": "元数据不是合法的 JSON。",
  "similar.making": "正在生成相似问法……", "similar.missing": "这个服务没有相似问生成。", "similar.title": "模型生成的相似问法，按与原句的余弦排列。勾选好的，加入语料库。", "similar.nothing": "没有生成出不同的问法。", "similar.add": ({ n }) => (n ? `加入 ${n} 条` : "加入"), "similar.added": ({ n }) => `已加入 ${n} 条。`,

  "ask.title": "向知识图谱提问", "ask.placeholder": "例如：澄湖银行的行长是谁？", "ask.question": "问题", "ask.graph": "图谱", "ask.beams": "束宽", "ask.beams.hint": "同时考虑多少条路", "ask.answers": "答案", "ask.others": "也考虑过", "ask.unlikely": ({ n }) => `${n} 个几乎不可能的`, "ask.tree": "分岔之处", "ask.tree.hint": "图谱在这些地方留有选择；枝越粗，模型越偏向这条路，枝上是模型在岔口给它的份额。灰色的路看过又放弃了。", "ask.tree.choice": ({ m, n }) => `走到底的有 ${m} 条路，途中放弃了 ${n} 处。`,
  "ask.tree.none": "（无）", "ask.tree.answer": ({ share }) => `是答案：${share}`, "ask.tree.more": ({ n }) => `其余 ${n} 种`, "ask.tree.told": ({ share, log, n, isKept }) => `模型在岔口给它 ${share}；至此的对数概率 ${log}；其后图谱有 ${n} 种走法${isKept ? "" : "；搜索放弃了它"}`, "ask.tree.all": "显示看过的每一条路", "ask.try": "试试看：", "ask.type": "写下一个问题。答案只会是图谱里有的事实。",
  "ask.samples": ["澄湖银行的行长是谁？", "澄湖银行的客服电话是多少？", "澄湖市有哪些景点？", "周明远毕业于哪里？"],
  "ask.nothing.title": "图谱里没有找到答案", "ask.nothing.text": "换个说法试试，或在下面浏览它知道的事。", "ask.none.title": "还没有知识图谱", "ask.none.text": "新建一个，再逐条添加三元组，或拖入一个文件。", "ask.new": "新建图谱", "ask.missing.title": "现在不能提问", "ask.missing.text": "这个服务没有知识图谱。",
  "ask.unsure": "模型没有把握，下面是最接近的事实。", "ask.probability": ({ share }) => `${share}%`, "ask.probability.hint": ({ log }) => `模型认为这是答案的概率；对数概率 ${log}`, "ask.browse": "看看关于它的事实",
  "facts.title": "图谱里有什么", "facts.browse": "主语开头", "facts.prefix": "输入主语的开头", "facts.count": ({ triples, subjects, predicates }) => `${triples} 个三元组 · ${subjects} 个主语 · ${predicates} 种关系`, "facts.nothing": "没有这样开头的主语。", "facts.add": "添加三元组", "facts.subject": "主语", "facts.meaning": "义项（可空）", "facts.predicate": "关系", "facts.object": "宾语", "facts.add.button": "添加", "facts.added": "已添加，马上可以提问。", "facts.deleted": "已删除三元组。", "facts.import": "拖入 TSV 文件，或点按选择", "facts.formats": "每行：主语 TAB 关系 TAB 宾语；可用 gz、xz、zst 压缩", "facts.wrongFile": ({ name }) => `${name} 不是 tsv 或 txt。`,

  "state.title": "状态", "state.ready": "就绪：刚刚真的算过一次。", "state.requests": "请求", "state.texts": "编码的文本", "state.perSecond": "每秒", "state.latency": "搜索中位耗时", "state.p99": ({ ms }) => `p99 ${ms}`, "state.queue": "等待编码", "state.waiting": ({ n }) => `正在处理的搜索 ${n}`, "state.graphs": "知识图谱", "state.triples": "三元组", "state.subjects": "主语", "state.predicates": "关系", "state.pending": "待合并的改动", "state.spared": "省下的输运", "state.spared.hint": "靠下界不必求解的比例", "state.memory": "内存", "state.served": ({ n }) => `启动以来 ${n} 个请求`, "state.noMetrics": "这个服务不公布指标（/metrics）。",
  "state.models": ({ version }) => `模型 · moverank ${version}`, "state.model.name": "模型", "state.lookup": ({ name }) => `${name}（问答）`, "state.model.device": "设备", "state.model.dim": "维数", "state.model.max_tokens": "最多词元", "state.model.token_vectors": "词向量", "state.model.retrieve": "召回", "state.model.weight": "权重", "state.model.fingerprint": "指纹",
  "state.documents": "文档", "state.index": "索引", "state.size": "大小", "state.limits": "限制", "state.limits.hint": "设置为 MOVERANK_名称", "state.limit": "名称", "state.value": "值",
};

const EN = {
  "nav.label": "Views", "nav.skip": "Skip to content", "nav.search": "Search", "nav.why": "Why", "nav.corpus": "Corpus", "nav.ask": "Ask", "nav.state": "State",
  "tools.key": "Key", "theme.auto": "Theme: like the system", "theme.light": "Theme: light", "theme.dark": "Theme: dark",
  cancel: "Cancel", save: "Save", close: "Close", undo: "Undo", comma: ", ", space: " ",
  "banner.loading": "The service is loading its model, or shutting down. The page goes on by itself when it is ready.", "banner.away": "The service cannot be reached. It may be restarting; the page keeps trying.",
  "key.title": "A key is needed", "key.needed": "This service answers only requests that carry a key.", "key.change": "Use another key, for example one that may write.", "key.key": "Key", "key.where": "Kept in this tab only, and forgotten when it closes.", "key.use": "Use it",

  "search.title": "Which texts mean the same as this one?", "search.placeholder": "Type a sentence; results come as you type", "search.query": "Query", "search.collection": "Collection", "search.results": "Results",
  "search.told": ({ n }) => `${n} results`, "search.failed": "The search failed", "search.try": "Try:", "search.emptyCollection": "This collection is empty.",
  "search.samples": ZH["search.samples"],
  "search.none.title": "There is no collection yet", "search.none.text": "Drop a file, and there is something to search.", "search.none.link": "Go to the corpus",
  "search.rerank": "Rerank", "search.weight": "Transport weight", "search.weight.hint": "0: cosine (and BM25) alone; 1: transport alone. Double-click for the model's default.", "search.retrieve": "Candidates by", "search.candidates": "Candidates", "search.scope": "Scope",
  "search.curl": "copy as curl", "search.more": "More results", "search.truncated": "A text is longer than the model reads; the rest was not compared.", "search.nothing.title": "No results", "search.nothing.text": "There is no text in this collection.", "search.nothing.filter": "No document satisfies the filter. Loosen it a little.",
  "rerank.wrd": "WRD", "rerank.wmd": "WMD", "rerank.none": "None",
  "rerank.wrd.hint": "Word Rotator's Distance: mass by the length of word vectors, cost 1 − cosine", "rerank.wmd.hint": "Word Mover's Distance: equal masses, cost by Euclidean distance", "rerank.none.hint": "Sorted by the first stage's score",
  "scope.pool": "Candidates", "scope.corpus": "Whole corpus", "scope.pool.hint": "Rerank the candidates by transport", "scope.corpus.hint": "The true best of the whole collection",
  "retrieve.usual": ({ usual }) => `Default (${usual})`, "retrieve.vector": "vectors", "retrieve.lexical": "words", "retrieve.hybrid": "both",
  "proof.exact": "Proven:", "proof.open": "Not proven:",
  "proof.pool": ({ solved, all, pruned, k }) => `solved ${solved} of ${all} transport problems; bounds show that the other ${pruned} cannot enter the top ${k}.`,
  "proof.corpus": ({ solved, all, pruned, k }) => `solved ${solved} transport problems of a corpus of ${all}; bounds show that the other ${pruned} cannot enter the top ${k}.`,
  "proof.pool.all": ({ all }) => `solved the transport problems of all ${all} candidates.`, "proof.corpus.all": ({ all }) => `solved the transport problems of the whole corpus of ${all}.`,
  "proof.none": "Nothing was reranked, so there is nothing to prove: sorted by the first stage's score.", "proof.partial": "Time ran out before every candidate was compared: the ranking may not be final.",
  "took.queue": "queue", "took.encode": "encode", "took.retrieve": "retrieve", "took.rerank": "rerank", "took.cache": "cache", "took.generate": "generate", "took.lookup": "lookup",
  "hit.why": "why", "hit.open": "open by itself", "hit.cosine": "cosine", "hit.score": "score", "hit.id": "Id of the document", "hit.notRun": "This stage did not run",
  "hit.cosine.hint": "Cosine of the two sentence vectors; higher is more alike", "hit.transport.hint": "Transport distance; lower is more alike, a longer bar is nearer", "hit.score.hint": "What the hits are sorted by; higher is better", "hit.bm25.hint": "Shared characters and words",
  "move.new": "new", "move.new.told": ({ after, most }) => `not among the first ${most} before the rerank, ${after} now`, "move.same.told": ({ after }) => `${after} before and after the rerank`, "move.up.told": ({ before, after }) => `${before} before the rerank, ${after} now`, "move.down.told": ({ before, after }) => `${before} before the rerank, ${after} now`,

  "filter.title": "Filter by metadata", "filter.json": "Filter (JSON)", "filter.wrong": "This is not a JSON object such as {\"year\": {\"gte\": 2020}}.", "filter.nothing": "These documents have no metadata to choose by.", "filter.clear": "Clear the filter", "filter.gte": "at least", "filter.lte": "at most",

  "why.title": "Why are these two alike?", "why.lead": "How much of one text's meaning has to move, and how far, to become the other? Ribbons are as wide as the mass that moves and coloured by its cost.", "why.a": "One text", "why.b": "The other", "why.swap": "Swap the texts", "why.measure": "Measure", "why.result": "Result", "why.try": "Examples", "why.empty": "Write two texts to see how they correspond.", "why.computing": "Solving the transport problem…",
  "why.examples": ZH["why.examples"],
  "plan.label": "Transport plan. Arrow keys go from token to token.", "plan.kind": "Kind of picture", "plan.ribbons": "Ribbons", "plan.heat": "Heat map", "plan.table": "Table", "plan.copySvg": "copy SVG", "plan.copyPng": "copy PNG", "plan.nothing": "There is nothing to draw: one of the texts has no token with mass.",
  "plan.caption": "Point at a ribbon or a token to see how much moved, and at what cost.", "plan.caption.table": "In the order of their share in the distance.",
  "plan.cheap": "cost", "plan.dear": "",
  "plan.move": ({ from, to, mass, cost }) => `${from} → ${to}: mass ${mass}, cost ${cost}`,
  "plan.goes": ({ name, mass, parts }) => `${name} (mass ${mass}) goes to ${parts}`, "plan.comes": ({ name, mass, parts }) => `${name} (mass ${mass}) comes from ${parts}`, "plan.idle": ({ name }) => `${name} has no mass`,
  "plan.free": ({ share }) => `${share}% of the mass stays almost where it is.`, "plan.paid": ({ measure, distance, moves }) => `The distance ${measure} ${distance} comes mostly from ${moves}.`, "plan.equal": "There is almost nothing to pay.",
  "plan.column.from": "from", "plan.column.to": "to", "plan.column.mass": "mass", "plan.column.cost": "cost", "plan.column.share": "of the distance",
  "copied.curl": "The curl command is copied.", "copied.svg": "The SVG is copied.", "copied.png": "The PNG is copied.", "copied.refused": "The browser does not let this page write to the clipboard.", "copied.saved": ({ name }) => `The clipboard is closed to this page: saved as ${name}.`,

  "corpus.title": "Corpus", "corpus.collections": "Collections", "corpus.new": "New collection", "corpus.name": "Name", "corpus.name.hint": "Lower-case letters, digits, - and _, at most 64.", "corpus.create": "Create",
  "corpus.count": ({ n, size }) => `${n} documents · ${size}`, "corpus.index": ({ index, dim }) => `${index} · ${dim} dimensions`, "corpus.nothing": "There is no collection yet. Make one, then drop a file or add documents one by one.",
  "corpus.delete": "Delete the collection", "corpus.delete.title": ({ name }) => `Delete ${name}?`, "corpus.delete.text": ({ n }) => `Its ${n} documents go with it. This cannot be undone.`,
  "import.drop": "Drop files here, or click to choose", "import.formats": "jsonl, csv, tsv or txt, also as gz, xz, zst; a csv needs a column named text",
  "import.unknown": ({ name }) => `The format of ${name} is not known; use jsonl, csv, tsv or txt, compressed or not.`, "import.progress": ({ name }) => `Progress of ${name}`, "import.sending": ({ share }) => `sending ${share}%`, "import.cancel": "cancel",
  "import.running": ({ done, total }) => `indexed ${done} of about ${total}`, "import.done": ({ done }) => `done, indexed ${done}`, "import.failed": ({ done }) => `failed after ${done}`, "import.cancelled": ({ done }) => `cancelled after ${done}`,
  "import.rate": ({ rate }) => `${rate} a second`, "import.eta": ({ eta }) => `${eta} to go`, "import.rejects": ({ failed }) => `${failed} lines could not be used`, "import.truncated": ({ n }) => `${n} too long`, "import.shown": ({ shown, failed }) => `Lines that could not be used (${shown} of ${failed})`, "import.line": ({ line }) => `line ${line}`,
  "documents.title": "Documents", "documents.add": "Add a document", "documents.from": "Begin at id", "documents.nothing": "No documents here.", "documents.back": "back", "documents.next": "next", "documents.similar": "similar questions", "documents.search": "search by it", "documents.edit": "edit", "documents.delete": "delete",
  "documents.deleted": ({ id }) => `Deleted ${id}.`, "documents.truncated": ({ n }) => `${n} longer than the model reads: only the beginning was indexed.`, "documents.edit.title": "Edit the document", "documents.add.title": "Add a document", "documents.id": "Id", "documents.id.placeholder": "made by the service", "documents.id.hint": "Left empty, the service makes one; a document of the same id is replaced.", "documents.text": "Text", "documents.metadata": "Metadata", "documents.metadata.hint": "A JSON object; searches can be filtered by it.", "documents.metadata.wrong": "The metadata is not valid JSON.",
  "similar.making": "Generating similar questions…", "similar.missing": "This service does not generate similar questions.", "similar.title": "What the model generated, by cosine to the original. Tick the good ones to add them.", "similar.nothing": "Nothing different came out.", "similar.add": ({ n }) => (n ? `Add ${n}` : "Add"), "similar.added": ({ n }) => `Added ${n}.`,

  "ask.title": "Ask a knowledge graph", "ask.placeholder": "For example: 澄湖银行的行长是谁？", "ask.question": "Question", "ask.graph": "Graph", "ask.beams": "Beams", "ask.beams.hint": "paths considered at once", "ask.answers": "Answers", "ask.others": "Also considered", "ask.unlikely": ({ n }) => `${n} that are next to impossible`, "ask.tree": "Where the paths part", "ask.tree.hint": "Here the graph leaves a choice. The thicker a branch, the more the model leans to that way; its figure is the model's share at the fork. Grey ways were looked at and dropped.", "ask.tree.choice": ({ m, n }) => `${m} ways reached their end, ${n} were dropped.`,
  "ask.tree.none": "(none)", "ask.tree.answer": ({ share }) => `as the answer: ${share}`, "ask.tree.more": ({ n }) => `${n} more`, "ask.tree.told": ({ share, log, n, isKept }) => `The model's share at the fork is ${share}; log-probability up to here ${log}; behind it the graph has ${n} ways${isKept ? "" : "; the search dropped it"}`, "ask.tree.all": "Show every way that was weighed", "ask.try": "Try:", "ask.type": "Write a question. An answer is always a fact of the graph.",
  "ask.samples": ZH["ask.samples"],
  "ask.nothing.title": "No answer in the graph", "ask.nothing.text": "Put it differently, or browse below what it knows.", "ask.none.title": "There is no knowledge graph yet", "ask.none.text": "Make one, then add triples one by one or drop a file.", "ask.new": "New graph", "ask.missing.title": "Nothing can be asked now", "ask.missing.text": "This service has no knowledge graphs.",
  "ask.unsure": "The model is not sure; these are the nearest facts.", "ask.probability": ({ share }) => `${share}%`, "ask.probability.hint": ({ log }) => `How probable the model finds this answer; log-probability ${log}`, "ask.browse": "Show the facts about it",
  "facts.title": "What the graph knows", "facts.browse": "Subjects that begin with", "facts.prefix": "Begin to type a subject", "facts.count": ({ triples, subjects, predicates }) => `${triples} triples · ${subjects} subjects · ${predicates} predicates`, "facts.nothing": "No subject begins like this.", "facts.add": "Add a triple", "facts.subject": "Subject", "facts.meaning": "Meaning (optional)", "facts.predicate": "Predicate", "facts.object": "Object", "facts.add.button": "Add", "facts.added": "Added; it can be asked for at once.", "facts.deleted": "The triple is deleted.", "facts.import": "Drop a TSV file here, or click to choose", "facts.formats": "subject TAB predicate TAB object on each line; also as gz, xz, zst", "facts.wrongFile": ({ name }) => `${name} is neither tsv nor txt.`,

  "state.title": "State", "state.ready": "Ready: a real forward pass succeeded just now.", "state.requests": "Requests", "state.texts": "Texts encoded", "state.perSecond": "a second", "state.latency": "Search, median", "state.p99": ({ ms }) => `p99 ${ms}`, "state.queue": "Waiting for the encoder", "state.waiting": ({ n }) => `searches under way: ${n}`, "state.graphs": "Knowledge graphs", "state.triples": "Triples", "state.subjects": "Subjects", "state.predicates": "Predicates", "state.pending": "Changes to merge", "state.spared": "Transport spared", "state.spared.hint": "problems that a bound made needless", "state.memory": "Memory", "state.served": ({ n }) => `${n} requests since the start`, "state.noMetrics": "This service publishes no metrics (/metrics).",
  "state.models": ({ version }) => `Models · moverank ${version}`, "state.model.name": "model", "state.lookup": ({ name }) => `${name} (questions)`, "state.model.device": "device", "state.model.dim": "dimensions", "state.model.max_tokens": "most tokens", "state.model.token_vectors": "token vectors", "state.model.retrieve": "candidates by", "state.model.weight": "weight", "state.model.fingerprint": "fingerprint",
  "state.documents": "Documents", "state.index": "Index", "state.size": "Size", "state.limits": "Limits", "state.limits.hint": "Set as MOVERANK_NAME", "state.limit": "Name", "state.value": "Value",
};

const LANGUAGES = { zh: ZH, en: EN };
const KEPT = "moverank.language";

let chosen = document.documentElement.lang.startsWith("zh") ? "zh" : "en"; // first.js has decided

/** The present language, "zh" or "en". */
export const language = () => chosen;

/** Speak another language from now on, and the next time too. */
export function setLanguage(name) {
  chosen = name;
  try {
    localStorage.setItem(KEPT, name);
  } catch {
    // Storage is off: the choice lasts as long as the page.
  }
}

/** Return what the page says under a name. */
export function say(name, values = {}) {
  const entry = LANGUAGES[chosen][name];
  if (entry === undefined) throw new Error(`the page has no words for ${name}`);
  return typeof entry === "function" ? entry(values) : entry;
}

/** The language of a text of the corpus as far as its characters tell; null where the page's own will do. */
export const languageOf = (text) => (/[\u3400-\u9fff]/.test(text) ? "zh-CN" : null);

/** All languages, for whoever checks that none lacks a word. */
export const languages = LANGUAGES;
