"""What Python programs call, and the apps too: `import torchrec_priors as tp`.

    data = tp.prepare("movielens", raw="ml-100k", out="prepared/ml-100k")
    run = tp.train("ml-100k", data, "runs/ml-100k")
    print(run.evaluate("test")["ndcg@10"])
    print(run.recommend(user=1))

There is one file for each function. The functions take and return Python objects; what they do is
what the app of the same name does.
"""
