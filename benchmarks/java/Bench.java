import java.util.Random;
import java.util.Scanner;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.pulsar.client.api.Producer;
import org.apache.pulsar.client.api.ProducerBuilder;
import org.apache.pulsar.client.api.PulsarClient;

/**
 * Sends messages as long as it is told to: on each line of standard input it sends that many and prints the seconds.
 * What it prints begins with `bench`; other lines are the client's own.
 *
 * Arguments: URL, topic, bytes of a message, and `async`, or `sync` with the number of threads.
 */
public final class Bench {
    private static final int PENDING = 10_000;

    public static void main(String[] arguments) throws Exception {
        byte[] payload = new byte[Integer.parseInt(arguments[2])];
        new Random().nextBytes(payload);
        boolean async = arguments[3].equals("async");
        int threads = async ? 1 : Integer.parseInt(arguments[4]);
        try (PulsarClient client = PulsarClient.builder().serviceUrl(arguments[0]).build()) {
            ProducerBuilder<byte[]> builder = client.newProducer().topic(arguments[1]).enableBatching(async);
            if (async) {
                builder.blockIfQueueFull(true).maxPendingMessages(PENDING)
                    .batchingMaxPublishDelay(1, TimeUnit.MILLISECONDS);
            }
            try (Producer<byte[]> producer = builder.create()) {
                System.out.println("bench ready");
                Scanner lines = new Scanner(System.in);
                while (lines.hasNextInt()) {
                    int count = lines.nextInt();
                    long began = System.nanoTime();
                    long delivered = async ? sendAsync(producer, payload, count) : send(producer, payload, count, threads);
                    double seconds = (System.nanoTime() - began) / 1e9;
                    if (delivered != count) {
                        throw new IllegalStateException(delivered + " of " + count + " were delivered");
                    }
                    System.out.println("bench " + seconds);
                }
            }
        }
    }

    private static long sendAsync(Producer<byte[]> producer, byte[] payload, int count) throws Exception {
        AtomicLong delivered = new AtomicLong();
        CountDownLatch left = new CountDownLatch(count);
        for (int number = 0; number < count; number++) {
            producer.sendAsync(payload).whenComplete((id, error) -> {
                if (error == null) {
                    delivered.incrementAndGet();
                }
                left.countDown();
            });
        }
        producer.flush();
        left.await();
        return delivered.get();
    }

    private static long send(Producer<byte[]> producer, byte[] payload, int count, int threads) throws Exception {
        AtomicLong delivered = new AtomicLong();
        Thread[] running = new Thread[threads];
        for (int thread = 0; thread < threads; thread++) {
            int share = count / threads + (thread < count % threads ? 1 : 0);
            running[thread] = new Thread(() -> {
                for (int number = 0; number < share; number++) {
                    try {
                        producer.send(payload);
                        delivered.incrementAndGet();
                    } catch (Exception error) {
                        throw new IllegalStateException(error);
                    }
                }
            });
            running[thread].start();
        }
        for (Thread each : running) {
            each.join();
        }
        return delivered.get();
    }
}
