# Makes limma_designs.csv and limma_designs_samples.csv: limma's moderated t and p with an abundance trend, of a class, or
# of the slope over a number, beside covariates, for tests/_signature/test_designs.py. Run once with R 4.2 and limma 3.54, in this folder:
# Rscript make_limma_designs.R

suppressMessages(library(limma))
set.seed(1)
n_genes <- 120
s <- data.frame(donor = factor(rep(1:8, each = 2)), class = rep(0:1, 8), group = sample(rep(0:1, 8)),
                age = round(rnorm(16, 65, 9)), batch = factor(sample(rep(c("a", "b", "c", "c"), 4))),
                stage = factor(sample(rep(c("A", "B", "C", "B"), 4)), levels = c("A", "B", "C"), ordered = TRUE),
                time = round(runif(16, 0, 24), 1), site = factor(sample(rep(c("blood", "node"), 8))))
abundance <- runif(n_genes, 3, 12)
sd <- sqrt((0.05 + 1 / (1 + abundance)) * 5 / rchisq(n_genes, 5))
y <- abundance + sd * matrix(rnorm(n_genes * 16), n_genes)
y <- y + outer(rnorm(n_genes, 0, 0.4), s$class) + outer(rnorm(n_genes, 0, 0.4), s$group) + outer(rnorm(n_genes, 0, 0.02), s$age - 65)
y <- pmax(round(y, 4), 1.01)
s$percent <- round(runif(16, 0, 100), 1)

designs <- list(numeric = ~ group + age, categories = ~ group + batch, ordered = ~ group + stage,
                several = ~ group + age + batch + stage, within_numeric = ~ donor + class + time,
                within_several = ~ donor + class + site + time, slope = ~ percent + age + batch)
out <- data.frame(y)
names(out) <- paste0("y", 1:16)
for (name in names(designs)) {
  fit <- eBayes(lmFit(y, model.matrix(designs[[name]], s)), trend = TRUE)
  of <- intersect(c("group", "class", "percent"), colnames(fit$t))
  out[[paste0("t_", name)]] <- signif(fit$t[, of], 15)
  out[[paste0("p_", name)]] <- signif(fit$p.value[, of], 15)
}
write.csv(out, "limma_designs.csv", row.names = FALSE)
write.csv(s, "limma_designs_samples.csv", row.names = FALSE, quote = FALSE)
