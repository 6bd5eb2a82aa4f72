/*
 * The job in Kafka Streams: a processor, its state in RocksDB behind the record cache, a changelog topic, two sinks.
 *
 * Runs with PEER_GROUP, PEER_BROKERS, PEER_PARTITIONS, PEER_DATA, PEER_ARTEFACT and PEER_ITEMS (JSON: item id -> categories)
 * in the environment; peers/kafka_streams.py compiles and starts it.
 */

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.processor.api.RecordMetadata;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

public final class Recommend implements Processor<byte[], byte[], byte[], byte[]> {
  static final int WINDOW = 100, TOP_K = 10, TOP_LABELS = 5, RECENT = 16;
  static final String[] SPANS = {"1h", "24h", "7d"};
  static final long[] SPANS_MS = {3_600_000L, 86_400_000L, 7 * 86_400_000L};
  static final double SHORT_MS = 86_400_000.0, LONG_MS = 30 * 86_400_000.0;

  enum Type {
    VIEW(1, 0.3, false), CLICK(2, 0.4, false), PURCHASE(6, 1.0, true), RATING(7, 1.0, true);

    static final Type[] ALL = values();
    final int code;
    final double weight;
    final boolean consumes;
    final String label = name().toLowerCase();

    Type(int code, double weight, boolean consumes) {
      this.code = code;
      this.weight = weight;
      this.consumes = consumes;
    }
  }

  public static void main(String[] arguments) throws Exception {
    Map<String, String> told = System.getenv();
    Model model = new Model(Path.of(told.get("PEER_ARTEFACT")), Path.of(told.get("PEER_ITEMS")));
    Topology topology = new Topology();
    topology.addSource("events", Serdes.ByteArray().deserializer(), Serdes.ByteArray().deserializer(), "events");
    topology.addProcessor("recommend", () -> new Recommend(model), "events");
    topology.addStateStore(
        Stores.keyValueStoreBuilder(
                Stores.persistentKeyValueStore("users"),
                Serdes.ByteArray(),
                Serdes.serdeFrom(
                    (topic, state) -> state == null ? null : state.encode(),
                    (topic, bytes) -> bytes == null ? null : State.decode(bytes, model.hidden)))
            .withCachingEnabled(),
        "recommend");
    for (String topic : List.of("profiles", "recommendations")) {
      topology.addSink(topic, topic, "recommend");
    }
    Properties options = new Properties();
    options.put(StreamsConfig.APPLICATION_ID_CONFIG, told.get("PEER_GROUP"));
    options.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, told.get("PEER_BROKERS"));
    options.put(StreamsConfig.STATE_DIR_CONFIG, told.get("PEER_DATA"));
    options.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
    options.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
    options.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
    options.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
    options.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64 << 20);
    options.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    options.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 4000);
    options.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 20);
    options.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
    KafkaStreams streams = new KafkaStreams(topology, options);
    Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
    streams.start();
  }

  private final Model model;
  private final JsonFactory json = new JsonFactory();
  private ProcessorContext<byte[], byte[]> context;
  private KeyValueStore<byte[], State> users;

  Recommend(Model model) {
    this.model = model;
  }

  @Override
  public void init(ProcessorContext<byte[], byte[]> context) {
    this.context = context;
    this.users = context.getStateStore("users");
  }

  @Override
  public void process(Record<byte[], byte[]> record) {
    try {
      Event event = Event.read(json, record.value());
      State state = users.get(record.key());
      if (state == null) {
        state = new State(model.hidden);
      }
      absorb(state, event);
      users.put(record.key(), state);
      RecordMetadata source = context.recordMetadata().orElseThrow();
      context.forward(record.withValue(profile(event.user, state, source)), "profiles");
      context.forward(record.withValue(list(event.user, state, source)), "recommendations");
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    } catch (OrtException error) {
      throw new IllegalStateException(error);
    }
  }

  /** Count the event, and step the GRU. */
  private void absorb(State state, Event event) throws OrtException {
    int row = model.rows.getOrDefault(event.item, -1);
    long passed = state.version == 0 ? 0 : Math.max(0, event.time - state.last);
    state.gru = model.step(state.gru, row, event.type.code, Math.log1p(passed / 1000.0) / 16, event.value / 10);
    double keepShort = Math.pow(0.5, passed / SHORT_MS), keepLong = Math.pow(0.5, passed / LONG_MS);
    for (double[] weights : state.interests.values()) {
      weights[0] *= keepShort;
      weights[1] *= keepLong;
    }
    String[] labels = model.categories.getOrDefault(event.item, new String[0]);
    for (String label : labels) {
      double[] weights = state.interests.computeIfAbsent(label, name -> new double[2]);
      weights[0] += event.type.weight / labels.length;
      weights[1] += event.type.weight / labels.length;
    }
    state.push(event.time, row, event.type);
    if (event.type.consumes && row >= 0) {
      state.see(row);
    }
    state.version++;
    state.last = event.time;
  }

  private byte[] profile(String user, State state, RecordMetadata source) throws IOException, OrtException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream(1024);
    try (JsonGenerator out = json.createGenerator(bytes)) {
      head(out, user, state);
      out.writeObjectFieldStart("interests");
      for (int memory = 0; memory < 2; memory++) {
        int which = memory;
        double total = state.interests.values().stream().mapToDouble(weights -> weights[which]).sum();
        List<Map.Entry<String, double[]>> best = new ArrayList<>(state.interests.entrySet());
        best.sort(Comparator.comparingDouble(entry -> -entry.getValue()[which]));
        out.writeArrayFieldStart(memory == 0 ? "short_term" : "long_term");
        for (Map.Entry<String, double[]> each : best.subList(0, Math.min(TOP_LABELS, best.size()))) {
          label(out, each.getKey(), each.getValue()[memory] / total);
        }
        out.writeEndArray();
      }
      for (Map.Entry<String, float[]> task : model.heads(state.gru).entrySet()) {
        out.writeArrayFieldStart(task.getKey());
        float[] p = task.getValue();
        Integer[] order = new Integer[p.length];
        Arrays.setAll(order, i -> i);
        Arrays.sort(order, (a, b) -> Float.compare(p[b], p[a]));
        for (int i = 0; i < Math.min(TOP_LABELS, p.length); i++) {
          label(out, model.labels.get(task.getKey())[order[i]], p[order[i]]);
        }
        out.writeEndArray();
      }
      out.writeEndObject();
      out.writeObjectFieldStart("activity");
      for (int span = 0; span < SPANS.length; span++) {
        int[] counts = state.counts(SPANS_MS[span]);
        out.writeObjectFieldStart(SPANS[span]);
        for (Type type : Type.ALL) {
          if (counts[type.ordinal()] > 0) {
            out.writeNumberField(type.label, counts[type.ordinal()]);
          }
        }
        out.writeEndObject();
      }
      out.writeEndObject();
      tail(out, source);
    }
    return bytes.toByteArray();
  }

  /** The best items that the user has not consumed, each with the past item closest to it, the newest of equals. */
  private byte[] list(String user, State state, RecordMetadata source) throws IOException, OrtException {
    float[] scores = new float[TOP_K];
    long[] rows = new long[TOP_K];
    int found = model.score(state, scores, rows);
    ByteArrayOutputStream bytes = new ByteArrayOutputStream(1024);
    try (JsonGenerator out = json.createGenerator(bytes)) {
      head(out, user, state);
      out.writeStringField("strategy", "model");
      out.writeArrayFieldStart("items");
      for (int i = 0; i < found; i++) {
        int reason = -1;
        float most = Float.NEGATIVE_INFINITY;
        for (int back = 1; back <= Math.min(RECENT, state.length); back++) {
          int row = state.rows[state.length - back];
          if (row >= 0 && row != rows[i]) {
            float support = model.dot((int) rows[i], row);
            if (support > most) {
              most = support;
              reason = row;
            }
          }
        }
        out.writeStartObject();
        out.writeStringField("item_id", model.ids[(int) rows[i]]);
        out.writeNumberField("score", Math.round(scores[i] * 1e6) / 1e6);
        if (reason >= 0) {
          out.writeStringField("because", model.ids[reason]);
        }
        out.writeEndObject();
      }
      out.writeEndArray();
      tail(out, source);
    }
    return bytes.toByteArray();
  }

  private void head(JsonGenerator out, String user, State state) throws IOException {
    out.writeStartObject();
    out.writeStringField("user_id", user);
    out.writeNumberField("version", state.version);
    out.writeNumberField("revision", 0);
    out.writeNumberField("as_of_ms", state.last);
    out.writeStringField("model_version", model.version);
  }

  private static void tail(JsonGenerator out, RecordMetadata source) throws IOException {
    out.writeObjectFieldStart("source");
    out.writeStringField("topic", source.topic());
    out.writeNumberField("partition", source.partition());
    out.writeNumberField("offset", source.offset());
    out.writeEndObject();
    out.writeEndObject();
  }

  private static void label(JsonGenerator out, String name, double p) throws IOException {
    out.writeStartObject();
    out.writeStringField("label", name);
    out.writeNumberField("p", Math.round(p * 1e4) / 1e4);
    out.writeEndObject();
  }

  /** What the job reads of an event. */
  static final class Event {
    String user, item;
    Type type;
    long time;
    double value;

    static Event read(JsonFactory json, byte[] bytes) throws IOException {
      Event event = new Event();
      try (JsonParser parser = json.createParser(bytes)) {
        parser.nextToken();
        while (parser.nextToken() != JsonToken.END_OBJECT) {
          String field = parser.currentName();
          parser.nextToken();
          switch (field) {
            case "user_id" -> event.user = parser.getText();
            case "item_id" -> event.item = parser.getText();
            case "type" -> event.type = Type.valueOf(parser.getText().toUpperCase());
            case "timestamp_ms" -> event.time = parser.getLongValue();
            case "value" -> event.value = parser.getDoubleValue();
            default -> parser.skipChildren();
          }
        }
      }
      return event;
    }
  }

  /** All that is known of a user; the window is oldest first. */
  static final class State {
    float[] gru;
    long version, last;
    int length, seenLength;
    final long[] times = new long[WINDOW];
    final int[] rows = new int[WINDOW];
    final byte[] types = new byte[WINDOW];
    int[] seen = new int[16];
    final Map<String, double[]> interests = new HashMap<>();

    State(int hidden) {
      gru = new float[hidden];
    }

    void push(long time, int row, Type type) {
      if (length == WINDOW) {
        System.arraycopy(times, 1, times, 0, WINDOW - 1);
        System.arraycopy(rows, 1, rows, 0, WINDOW - 1);
        System.arraycopy(types, 1, types, 0, WINDOW - 1);
        length--;
      }
      times[length] = time;
      rows[length] = row;
      types[length++] = (byte) type.ordinal();
    }

    void see(int row) {
      for (int i = 0; i < seenLength; i++) {
        if (seen[i] == row) {
          return;
        }
      }
      if (seenLength == seen.length) {
        seen = Arrays.copyOf(seen, 2 * seenLength);
      }
      seen[seenLength++] = row;
    }

    int[] counts(long span) {
      int[] counts = new int[Type.ALL.length];
      for (int i = length - 1; i >= 0 && times[i] > last - span; i--) {
        counts[types[i]]++;
      }
      return counts;
    }

    byte[] encode() {
      byte[][] names = new byte[interests.size()][];
      int size = 4 * gru.length + 8 + 8 + 4 + 13 * length + 4 + 4 * seenLength + 4, n = 0;
      for (String name : interests.keySet()) {
        names[n] = name.getBytes(StandardCharsets.UTF_8);
        size += 2 + names[n++].length + 16;
      }
      ByteBuffer out = ByteBuffer.allocate(size);
      for (float each : gru) {
        out.putFloat(each);
      }
      out.putLong(version).putLong(last).putInt(length);
      for (int i = 0; i < length; i++) {
        out.putLong(times[i]).putInt(rows[i]).put(types[i]);
      }
      out.putInt(seenLength);
      for (int i = 0; i < seenLength; i++) {
        out.putInt(seen[i]);
      }
      out.putInt(n);
      n = 0;
      for (double[] weights : interests.values()) {
        out.putShort((short) names[n].length).put(names[n++]).putDouble(weights[0]).putDouble(weights[1]);
      }
      return out.array();
    }

    static State decode(byte[] bytes, int hidden) {
      State state = new State(hidden);
      ByteBuffer in = ByteBuffer.wrap(bytes);
      for (int i = 0; i < hidden; i++) {
        state.gru[i] = in.getFloat();
      }
      state.version = in.getLong();
      state.last = in.getLong();
      state.length = in.getInt();
      for (int i = 0; i < state.length; i++) {
        state.times[i] = in.getLong();
        state.rows[i] = in.getInt();
        state.types[i] = in.get();
      }
      state.seenLength = in.getInt();
      state.seen = new int[Math.max(16, state.seenLength + 4)];
      for (int i = 0; i < state.seenLength; i++) {
        state.seen[i] = in.getInt();
      }
      for (int left = in.getInt(); left > 0; left--) {
        byte[] name = new byte[in.getShort()];
        in.get(name);
        state.interests.put(new String(name, StandardCharsets.UTF_8), new double[] {in.getDouble(), in.getDouble()});
      }
      return state;
    }
  }

  /** The artefact's sessions and tables. Inputs lie in buffers that are filled anew for every event. */
  static final class Model {
    final String version;
    final String[] ids;
    final int hidden, dim;
    final Map<String, Integer> rows = new HashMap<>();
    final Map<String, String[]> categories, labels;
    private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
    private final OrtSession step, heads, scorer;
    private final float[] vectors, unknown;
    private final FloatBuffer stateIn, itemIn, gapIn, valueIn;
    private final LongBuffer typeIn;
    private LongBuffer excluded = longs(2 * 256);
    private final Map<String, OnnxTensor> stepInputs, headsInputs, scorerInputs;

    Model(Path artefact, Path items) throws IOException, OrtException {
      ObjectMapper mapper = new ObjectMapper();
      JsonNode manifest = mapper.readTree(artefact.resolve("manifest.json").toFile());
      version = manifest.get("version").asText();
      hidden = manifest.get("hidden").asInt();
      dim = manifest.get("dim").asInt();
      labels = mapper.convertValue(manifest.get("heads"), mapper.getTypeFactory().constructMapType(HashMap.class, String.class, String[].class));
      ids = mapper.readValue(artefact.resolve("items.ids").toFile(), String[].class);
      for (int row = 0; row < ids.length; row++) {
        rows.put(ids[row], row);
      }
      categories = mapper.readValue(items.toFile(), mapper.getTypeFactory().constructMapType(HashMap.class, String.class, String[].class));
      vectors = array(artefact.resolve("items.f32.npy"));
      unknown = array(artefact.resolve("unknown.f32.npy"));
      OrtSession.SessionOptions options = new OrtSession.SessionOptions();
      options.setIntraOpNumThreads(1);
      options.setInterOpNumThreads(1);
      options.addConfigEntry("session.intra_op.allow_spinning", "0");
      step = environment.createSession(artefact.resolve("gru_step.onnx").toString(), options);
      heads = environment.createSession(artefact.resolve("heads.onnx").toString(), options);
      scorer = environment.createSession(artefact.resolve("scorer.onnx").toString(), options);
      stateIn = floats(hidden);
      itemIn = floats(dim);
      gapIn = floats(1);
      valueIn = floats(1);
      typeIn = longs(1);
      OnnxTensor state = OnnxTensor.createTensor(environment, stateIn, new long[] {1, hidden});
      stepInputs = Map.of(
          "state", state,
          "item", OnnxTensor.createTensor(environment, itemIn, new long[] {1, dim}),
          "type", OnnxTensor.createTensor(environment, typeIn, new long[] {1}),
          "gap", OnnxTensor.createTensor(environment, gapIn, new long[] {1}),
          "value", OnnxTensor.createTensor(environment, valueIn, new long[] {1}));
      headsInputs = Map.of("state", state);
      float[] bias = array(artefact.resolve("items.bias.npy"));
      scorerInputs = new HashMap<>();
      scorerInputs.put("state", state);
      FloatBuffer columns = floats(vectors.length);
      for (int i = 0; i < vectors.length; i++) {
        columns.put(i % dim * ids.length + i / dim, vectors[i]);
      }
      scorerInputs.put("items", OnnxTensor.createTensor(environment, columns, new long[] {dim, ids.length}));
      scorerInputs.put("bias", OnnxTensor.createTensor(environment, floats(bias.length).put(bias).rewind(), new long[] {ids.length}));
      scorerInputs.put("k", OnnxTensor.createTensor(environment, longs(1).put(0, TOP_K), new long[] {1}));
    }

    float[] step(float[] state, int row, int type, double gap, double value) throws OrtException {
      stateIn.put(0, state);
      if (row >= 0) {
        itemIn.put(0, vectors, row * dim, dim);
      } else {
        itemIn.put(0, unknown);
      }
      typeIn.put(0, type);
      gapIn.put(0, (float) gap);
      valueIn.put(0, (float) value);
      try (OrtSession.Result result = step.run(stepInputs)) {
        float[] next = new float[hidden];
        ((OnnxTensor) result.get(0)).getFloatBuffer().get(next);
        return next;
      }
    }

    Map<String, float[]> heads(float[] state) throws OrtException {
      stateIn.put(0, state);
      Map<String, float[]> found = new HashMap<>();
      try (OrtSession.Result result = heads.run(headsInputs)) {
        for (var each : result) {
          found.put(each.getKey(), ((OnnxTensor) each.getValue()).getFloatBuffer().array());
        }
      }
      return found;
    }

    /** Fills scores and rows, best first; returns how many items there were. */
    int score(State state, float[] scores, long[] rows) throws OrtException {
      stateIn.put(0, state.gru);
      if (excluded.capacity() < 2 * state.seenLength) {
        excluded = longs(4 * state.seenLength);
      }
      excluded.clear();
      for (int i = 0; i < state.seenLength; i++) {
        excluded.put(0).put(state.seen[i]);
      }
      excluded.flip();
      try (OnnxTensor pairs = OnnxTensor.createTensor(environment, excluded, new long[] {state.seenLength, 2})) {
        scorerInputs.put("excluded", pairs);
        try (OrtSession.Result result = scorer.run(scorerInputs)) {
          FloatBuffer best = ((OnnxTensor) result.get("scores").orElseThrow()).getFloatBuffer();
          int n = best.remaining(), found = 0;
          best.get(scores, 0, n);
          ((OnnxTensor) result.get("rows").orElseThrow()).getLongBuffer().get(rows, 0, n);
          while (found < n && scores[found] > Float.NEGATIVE_INFINITY) {
            found++;
          }
          return found;
        }
      }
    }

    float dot(int a, int b) {
      float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      for (int i = a * dim, j = b * dim, end = i + dim; i < end; i += 4, j += 4) {
        s0 += vectors[i] * vectors[j];
        s1 += vectors[i + 1] * vectors[j + 1];
        s2 += vectors[i + 2] * vectors[j + 2];
        s3 += vectors[i + 3] * vectors[j + 3];
      }
      return s0 + s1 + (s2 + s3);
    }

    private static FloatBuffer floats(int n) {
      return ByteBuffer.allocateDirect(4 * n).order(ByteOrder.nativeOrder()).asFloatBuffer();
    }

    private static LongBuffer longs(int n) {
      return ByteBuffer.allocateDirect(8 * n).order(ByteOrder.nativeOrder()).asLongBuffer();
    }

    /** A NumPy file of little-endian float32, version 1. */
    private static float[] array(Path path) throws IOException {
      ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(path)).order(ByteOrder.LITTLE_ENDIAN);
      FloatBuffer numbers = bytes.position(10 + bytes.getShort(8)).slice().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
      float[] array = new float[numbers.remaining()];
      numbers.get(array);
      return array;
    }
  }
}
