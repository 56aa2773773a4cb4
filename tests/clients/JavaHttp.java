// `java JavaHttp.java URL`: a GET, a POST of 64 KiB and 20 GETs at once with java.net.http, over HTTP/2 where offered.
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Base64;
import java.util.stream.IntStream;

class JavaHttp {
    public static void main(String[] arguments) throws Exception {
        String url = arguments[0];
        HttpClient client = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).proxy(ProxySelector.getDefault())
            .build();
        String posted = "{\"text\":\"" + "grüße ".repeat(10000) + "\"}";
        show(client.send(request(url + "/anything?probe=1").build(), BodyHandlers.ofString()), "\"probe\"");
        var post = request(url + "/post").header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(posted)).build();
        var answer = client.send(post, BodyHandlers.ofString());
        show(answer, "gr\\u00fc\\u00dfe");
        IntStream.range(0, 20).mapToObj(n -> client.sendAsync(request(url + "/get?n=" + n).build(), BodyHandlers.ofString()))
            .toList().forEach(each -> show(each.join(), "\"n\""));
        System.out.println("22 requests over " + answer.version());
    }

    static HttpRequest.Builder request(String url) {
        var request = HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofSeconds(20))
            .header("Authorization", "Bearer " + System.getenv("API_KEY"));
        String proxy = System.getenv("HTTPS_PROXY");
        if (proxy == null) return request;
        // An Authenticator is asked after a 407 only, and java.net.http then connects anew. This one is sent with the CONNECT.
        byte[] user = URI.create(proxy).getUserInfo().getBytes(StandardCharsets.UTF_8);
        return request.header("Proxy-Authorization", "Basic " + Base64.getEncoder().encodeToString(user));
    }

    static void show(HttpResponse<String> answer, String holds) {
        System.out.println(answer.headers().map() + answer.body());
        if (answer.statusCode() != 200 || !answer.body().contains(holds))
            throw new IllegalStateException(answer.uri() + ": " + answer.statusCode());
    }
}
